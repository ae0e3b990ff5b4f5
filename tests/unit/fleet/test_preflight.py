"""What is checked before anything starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tri_serve.checkpoint.architecture import read_architecture
from tri_serve.checkpoint.quantization import QuantizationFacts
from tri_serve.checkpoint.tiny import tiny_checkpoint
from tri_serve.errors import (
    EngineEnvironmentError,
    MissingExtraError,
    ResourceError,
    SpecError,
    TriServeError,
    UsageError,
)
from tri_serve.fleet import gpu_preflight
from tri_serve.fleet import preflight as checks
from tri_serve.fleet.keys import check_exposure
from tri_serve.fleet.plan_preflight import check_model
from tri_serve.fleet.preflight import (
    Replaced,
    check_packages,
    check_port,
    check_python,
    check_ray,
    preflight,
)
from tri_serve.fleet.state import FleetPhase, FleetState, GatewayState, SupervisorState
from tri_serve.launch.gpus import GpuProcess, GpuReading
from tri_serve.spec.fleet import FleetSpec, RaySpec
from tri_serve.spec.gateway import GatewaySpec
from tri_serve.spec.load import load_spec
from tri_serve.spec.models import Spec

GIB = 2**30
SPEC = Spec.model_validate(
    {"model": {"source": "tiny:bf16", "served_name": "t"}, "engine": {"cpu_kv_cache_gib": 4}}
)


@pytest.mark.parametrize(
    ("gateway", "keys"),
    [
        (GatewaySpec(), 0),
        (GatewaySpec(host="::1"), 0),
        (GatewaySpec(host="0.0.0.0"), 1),
        (GatewaySpec(host="0.0.0.0", allow_unauthenticated=True), 0),
    ],
)
def test_a_gateway_may_be_open_to_this_machine_to_key_holders_or_on_purpose(
    gateway: GatewaySpec, keys: int
) -> None:
    check_exposure(gateway, keys)


def test_a_gateway_is_not_opened_to_the_network_by_accident() -> None:
    with pytest.raises(UsageError, match="no client key is set"):
        check_exposure(GatewaySpec(host="0.0.0.0"), 0)


def test_more_context_than_the_model_has_is_refused_with_both_numbers(tmp_path: Path) -> None:
    path = tiny_checkpoint("bf16", tmp_path)

    def asked(length: str, *sets: str) -> None:
        spec = load_spec(None, [], {}, sets=[f"model.max_model_len={length}", *sets]).spec
        check_model(spec, read_architecture(path), QuantizationFacts(), path)

    with pytest.raises(SpecError, match=r"8,193, and config\.json allows 8,192"):
        asked("8193")
    asked("8192")
    asked("null")
    # Where the engine is told to take more, it does.
    asked("32768", "engine.env.VLLM_ALLOW_LONG_MAX_MODEL_LEN=1")
    asked("32768", 'engine.extra_args=["--hf-overrides={}"]')


def test_a_quantization_that_is_not_the_checkpoints_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    spec = load_spec(None, [], {}, sets=["model.quantization=gptq", "gateway.port=1"]).spec
    with pytest.raises(TriServeError) as refused:
        preflight(spec, environment_hashes={}, state=tmp_path, new_listener=False)
    assert "gptq" in f"{refused.value} {refused.value.hint}"
    assert "awq" in f"{refused.value} {refused.value.hint}"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of nobody else."""
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_what_no_engine_would_take_is_said_with_everything_else(places: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sets = ['engine.extra_args=["--port","9"]', f"gateway.port={port}", "model.source=/no/checkpoint"]
        spec = load_spec(None, [], {}, sets=sets).spec
        with pytest.raises(TriServeError) as refused:
            preflight(spec, environment_hashes={}, state=places)
    for words in ("3 things", "engine.extra_args: --port cannot be given", f"port {port}", "/no/checkpoint"):
        assert words in refused.value.message
    assert refused.value.exit_code == 12


def test_a_python_without_vllm_is_no_environment(tmp_path: Path) -> None:
    check_python(program(tmp_path / "good", "exit 0"))
    with pytest.raises(EngineEnvironmentError, match=r"bad has no vllm$"):
        check_python(program(tmp_path / "bad", "exit 1"))
    with pytest.raises(EngineEnvironmentError, match="has no vllm: SyntaxError"):
        check_python(program(tmp_path / "old", "echo 'SyntaxError: what?' >&2; exit 1"))


def test_a_successor_that_is_too_large_is_refused_before_the_engine_ends(places: Path) -> None:
    before = load_spec(None, [], {}, sets=["gateway.port=1"]).spec
    after = load_spec(None, [], {}, sets=["gateway.port=1", "engine.cpu_kv_cache_gib=1024"]).spec
    replaced = Replaced(before, 3)
    assert replaced.memory() > 3 * 2.5 * GIB
    with pytest.raises(ResourceError, match=r"3 engines of about .* 1024 GiB of it KV cache"):
        preflight(
            after, environment_hashes={}, state=places, new_listener=False, new_engines=0, replaced=replaced
        )


def test_engines_of_a_checkpoint_that_is_gone_are_not_counted_on(places: Path) -> None:
    gone = SPEC.model_copy(update={"model": SPEC.model.model_copy(update={"source": "/no/checkpoint"})})
    assert Replaced(gone, 2).memory() == 0


def test_a_port_of_another_release_is_said_to_be_its(places: Path) -> None:
    folder = places / "tri-serve" / "releases" / "blue"
    folder.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway = GatewaySpec(port=port)
        with pytest.raises(ResourceError, match=f"taken by pid {os.getpid()}"):
            check_port(gateway)
        state = FleetState(
            release="blue",
            phase=FleetPhase.RUNNING,
            url=f"http://127.0.0.1:{port}",
            model="m",
            source="s",
            engine="e",
            supervisor=SupervisorState.current("token"),
            replicas=(),
            gateways=(GatewayState(phase="running", since=1.0, log="/g"),),
        )
        (folder / "state.json").write_text(state.model_dump_json())
        with pytest.raises(ResourceError, match=r"is taken by your release blue$") as refused:
            check_port(gateway)
        assert "tri-serve down -r blue" in (refused.value.hint or "")
        (folder / "state.json").write_text("{")
        with pytest.raises(ResourceError, match=f"taken by pid {os.getpid()}"):
            check_port(gateway)
    check_port(gateway)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes packages look as if they were not installed."""

    def hide(*names: str) -> None:
        monkeypatch.setattr(checks, "find_spec", lambda name: None if name in names else find_spec(name))

    return hide


def test_a_ray_that_is_not_installed_is_named_with_both_ways_on(without: Callable[..., None]) -> None:
    check_ray(FleetSpec())
    without("ray")
    with pytest.raises(
        MissingExtraError, match="the Ray supervisor needs the optional part 'ray'"
    ) as refused:
        check_ray(FleetSpec())
    assert refused.value.hint == "pip install 'tri-serve[local]', or run without it: --supervisor process"
    check_ray(FleetSpec(supervisor="process"))


def test_a_cluster_cannot_do_without_ray(without: Callable[..., None]) -> None:
    without("ray")
    with pytest.raises(MissingExtraError) as refused:
        check_ray(FleetSpec(target="ray", ray=RaySpec(address="auto")))
    assert refused.value.hint == "pip install 'tri-serve[local]'"


def test_a_ray_without_serve_is_no_ray(without: Callable[..., None]) -> None:
    without("fastapi")
    with pytest.raises(MissingExtraError, match="'ray'"):
        check_ray(FleetSpec())


def test_a_folder_of_the_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no_such_package_of_ours").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(checks, "_GATEWAY_PACKAGES", ("no_such_package_of_ours",))
    assert find_spec("no_such_package_of_ours") is not None
    with pytest.raises(MissingExtraError, match="'gateway'"):
        check_packages()


def test_looking_for_ray_does_not_import_it() -> None:
    code = (
        "import sys; from tri_serve.fleet.preflight import check_ray; from tri_serve.spec.fleet import FleetSpec; "
        "check_ray(FleetSpec()); sys.exit('ray' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def on_gpus(monkeypatch: pytest.MonkeyPatch, *gpus: str) -> None:
    monkeypatch.setattr(checks, "detect_device", lambda requested: "cuda")
    monkeypatch.setattr(checks, "fleet_gpus", lambda spec: gpus)


@pytest.mark.parametrize(
    ("sets", "words", "hint"),
    [
        (["fleet.replicas=3"], "3 engines need 3, and 2 are visible (0, 1)", "fleet.replicas=2 fits"),
        (
            ["fleet.replicas=2", "engine.tensor_parallel_size=2", "fleet.supervisor=process"],
            "2 engines need 4 (2 each",
            "fleet.replicas=1 fits",
        ),
        (["fleet.replicas.max=4"], "4 engines need 4, and 2 are visible", "fleet.replicas.max=2 fits"),
    ],
)
def test_more_engines_than_gpus_are_refused(
    places: Path, monkeypatch: pytest.MonkeyPatch, sets: list[str], words: str, hint: str
) -> None:
    on_gpus(monkeypatch, "0", "1")
    spec = load_spec(None, [], {}, sets=[*sets, "gateway.port=1"]).spec
    with pytest.raises(TriServeError) as refused:
        preflight(spec, environment_hashes={}, state=places, new_listener=False)
    assert words in refused.value.message
    assert hint in f"{refused.value.message} {refused.value.hint}"


def test_engines_that_have_gpus_enough_and_engines_of_a_cluster_are_not_refused(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpus(monkeypatch, "0", "1")
    monkeypatch.setattr(checks, "available_memory", lambda: 64 * GIB)
    enough = load_spec(None, [], {}, sets=["fleet.replicas.max=2"]).spec
    assert preflight(enough, environment_hashes={}, state=places, new_listener=False).device == "cuda"
    monkeypatch.setattr(checks, "available_memory", lambda: 0)
    cluster = ["fleet.replicas=9", "fleet.target=ray", "fleet.ray.address=auto"]
    spec = load_spec(None, [], {}, sets=cluster).spec
    assert preflight(spec, environment_hashes={}, state=places).device == "cuda"


def test_what_the_driver_tells_of_the_gpus_is_among_the_problems(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpus(monkeypatch, "0")
    holder = GpuProcess(4711, 20 * GIB, "python3")
    card = GpuReading(
        0, "GPU-0", "NVIDIA L4", 22 * GIB, 0, 2 * GIB, (8, 9), "550.54.15", (12, 4), False, (holder,)
    )
    monkeypatch.setattr(gpu_preflight, "devices_here", lambda environ: (card,))
    spec = load_spec(None, [], {}, sets=["fleet.supervisor=process"]).spec
    with pytest.raises(TriServeError) as refused:
        preflight(spec, environment_hashes={}, state=places, new_listener=False)
    assert "the NVIDIA driver 550.54.15 runs CUDA up to 12.4" in refused.value.message
    assert "2.0 GiB are free; 20.0 GiB are held by pid 4711 (python3), 20,480 MiB" in refused.value.message


def test_a_checkpoint_is_fetched_once_nothing_else_stands_in_the_way(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[bool] = []
    spec = load_spec(None, [], {}, sets=["fleet.supervisor=process"]).spec
    monkeypatch.setattr(checks, "available_memory", lambda: 64 * GIB)
    preflight(
        spec, environment_hashes={}, state=places, new_listener=False, fetch=lambda: fetched.append(True)
    )
    assert fetched == [True]
    on_gpus(monkeypatch)
    with pytest.raises(ResourceError, match="none is visible"):
        preflight(
            spec, environment_hashes={}, state=places, new_listener=False, fetch=lambda: fetched.append(True)
        )
    assert fetched == [True]


def test_a_new_fleet_needs_room_for_all_that_it_may_become_and_for_its_ray(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "detect_device", lambda requested: "cpu")
    monkeypatch.setattr(checks, "available_memory", lambda: 8 * GIB)
    spec = load_spec(None, [], {}, sets=["fleet.replicas.max=4"]).spec
    with pytest.raises(
        ResourceError, match=r"4 engines of .* and 0\.9 GiB of Ray need 1.\.. GiB, and 8\.0"
    ) as no:
        preflight(spec, environment_hashes={}, state=places, new_listener=False)
    assert no.value.hint == "--set fleet.replicas.max=2 fits"
    # Two run already, and so does Ray: one more fits, two do not.
    preflight(spec, environment_hashes={}, state=places, new_listener=False, new_engines=2)
    monkeypatch.setattr(checks, "available_memory", lambda: 4 * GIB)
    with pytest.raises(ResourceError, match=r"2 engines of about [^R]*$") as no:
        preflight(spec, environment_hashes={}, state=places, new_listener=False, new_engines=2)
    assert no.value.hint == "--set fleet.replicas.max=3 fits"
