"""What is checked before anything starts."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tri_serve.checkpoint.architecture import read_architecture
from tri_serve.checkpoint.tiny import tiny_checkpoint
from tri_serve.errors import EngineEnvironmentError, ResourceError, SpecError, TriServeError, UsageError
from tri_serve.fleet.keys import check_exposure
from tri_serve.fleet.preflight import (
    Replaced,
    available_memory,
    check_context,
    check_disk,
    check_memory,
    check_port,
    check_python,
    engine_memory,
    preflight,
)
from tri_serve.fleet.state import FleetPhase, FleetState, GatewayState, SupervisorState
from tri_serve.spec.gateway import GatewaySpec
from tri_serve.spec.load import load_spec
from tri_serve.spec.models import Spec

GIB = 2**30
SPEC = Spec.model_validate(
    {"model": {"source": "tiny:bf16", "served_name": "t"}, "engine": {"cpu_kv_cache_gib": 4}}
)


def test_memory_that_suffices_is_no_problem() -> None:
    check_memory(SPEC, "cpu", 0, engines=1, available=64 * GIB)


def test_too_little_memory_is_refused_with_the_numbers_and_what_fits() -> None:
    each = engine_memory(SPEC, "cpu", GIB)
    with pytest.raises(
        ResourceError, match=r"3 engines of about .* need .* GiB, and .* GiB are available"
    ) as caught:
        check_memory(SPEC, "cpu", GIB, engines=3, available=2 * each + GIB // 2)
    assert caught.value.hint == "--set fleet.replicas=2 fits"


def test_a_single_engine_that_does_not_fit_names_the_kv_cache() -> None:
    with pytest.raises(ResourceError, match="4 GiB of it KV cache") as caught:
        check_memory(SPEC, "cpu", GIB, engines=1, available=GIB)
    assert "engine.cpu_kv_cache_gib" in (caught.value.hint or "")


def test_weights_and_kv_cache_on_a_gpu_take_no_main_memory() -> None:
    assert engine_memory(SPEC, "cuda", 13 * GIB) == engine_memory(SPEC, "cuda", 0)


def proc(root: Path, available_kib: int) -> None:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {available_kib} kB\n")


def test_available_memory_is_the_machines(tmp_path: Path) -> None:
    proc(tmp_path, 1024)
    assert available_memory(tmp_path) == 2**20


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 8 * GIB), (str(5 * GIB), 3 * GIB), (str(64 * GIB), 8 * GIB)]
)
def test_available_memory_is_what_the_container_leaves(tmp_path: Path, limit: str, expected: int) -> None:
    proc(tmp_path, 8 * GIB // 1024)
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(limit + "\n")
    (group / "memory.current").write_text(str(2 * GIB))
    assert available_memory(tmp_path) == expected


def test_too_little_disk_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"disk: logs in .*/not/there need .* MiB, and .* MiB are free"):
        check_disk(tmp_path / "not" / "there", 2**60, "logs")


def test_enough_disk_is_no_problem(tmp_path: Path) -> None:
    check_disk(tmp_path / "not" / "there", 1, "logs")


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
    architecture = read_architecture(tiny_checkpoint("bf16", tmp_path))
    model = load_spec(None, [], {}, sets=["model.max_model_len=8193"]).spec.model
    with pytest.raises(SpecError, match=r"8,193, and config\.json allows 8,192"):
        check_context(model, architecture)
    check_context(model.model_copy(update={"max_model_len": 8192}), architecture)
    check_context(model.model_copy(update={"max_model_len": None}), architecture)


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


def test_the_memory_of_replaced_engines_counts_as_available() -> None:
    each = engine_memory(SPEC, "cpu", 0)
    check_memory(SPEC, "cpu", 0, engines=2, available=GIB, given_back=2 * each)
    with pytest.raises(ResourceError, match=r"5\.5 GiB of them held by what is replaced"):
        check_memory(SPEC, "cpu", 0, engines=2, available=GIB, given_back=each)


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
