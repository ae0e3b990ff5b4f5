"""What is said of GPUs before an engine starts, from readings that are made up."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tri_serve.errors import ResourceError, TriServeError
from tri_serve.fleet import gpu_preflight
from tri_serve.fleet.gpu_preflight import (
    check_driver,
    check_engine_shared_memory,
    check_free_memory,
    check_gpus_here,
)
from tri_serve.fleet.problems import Problems
from tri_serve.launch.gpus import GpuProcess, GpuReading
from tri_serve.plan.memory import CONTEXT_BYTES
from tri_serve.spec.engine import EngineSpec
from tri_serve.spec.models import Spec

GIB = 2**30
MIB = 2**20


def gpu(index: int = 0, free: float = 22.0, **other: Any) -> GpuReading:
    """A 24 GB board of which programs can share 22 GiB."""
    facts: dict[str, Any] = {
        "index": index,
        "uuid": f"GPU-{index}",
        "name": "NVIDIA L4",
        "total": int(22.5 * GIB),
        "reserved": int(0.5 * GIB),
        "free": int(free * GIB),
        "compute_capability": (8, 9),
        "driver": "580.65.06",
        "driver_cuda": (13, 0),
    }
    return GpuReading(**(facts | other))


def engine(**fields: Any) -> EngineSpec:
    return EngineSpec.model_validate(fields)


def test_an_idle_gpu_is_enough_for_the_default_share() -> None:
    check_free_memory(engine(), [gpu()])


def test_the_cuda_context_counts_before_the_engine_looks() -> None:
    requested = 22 * 0.92 * GIB
    assert check_free_memory(engine(), [gpu(free=(requested + CONTEXT_BYTES + MIB) / GIB)]) == ()
    (warning,) = check_free_memory(engine(), [gpu(free=(requested + CONTEXT_BYTES - MIB) / GIB)])
    assert "its CUDA context some 0.5 GiB before" in warning
    assert "--set engine.gpu_memory_utilization=0.91" in warning
    # That context is a guess; that less is free than is taken is none.
    with pytest.raises(ResourceError, match=r"beside some 0\.5 GiB of its CUDA context"):
        check_free_memory(engine(), [gpu(free=(requested - MIB) / GIB)])


def test_a_gpu_whose_memory_is_not_told_is_not_judged_by_it() -> None:
    shared = gpu(name="NVIDIA GB10", total=0, reserved=0, free=0)
    assert check_free_memory(engine(), [shared]) == ()


def test_who_holds_the_memory_is_named_with_the_share_that_still_works() -> None:
    processes = (GpuProcess(4711, 4000 * MIB, "/usr/bin/python3"), GpuProcess(4712, None, ""))
    with pytest.raises(ResourceError) as refused:
        check_free_memory(engine(), [gpu(free=18, processes=processes)])
    assert refused.value.message == (
        "GPU 0 (NVIDIA L4): the engine takes 0.92 of 22.0 GiB, 20.2 GiB, beside some 0.5 GiB of its CUDA context, "
        "and 18.0 GiB are free; 4.0 GiB are held by pid 4711 (/usr/bin/python3), 4,000 MiB; pid 4712"
    )
    assert refused.value.hint is not None
    assert "--set engine.gpu_memory_utilization=0.79 starts" in refused.value.hint
    check_free_memory(engine(gpu_memory_utilization=0.79), [gpu(free=18, processes=processes)])


def test_a_release_of_the_users_own_is_named_with_how_to_stop_it() -> None:
    processes = (GpuProcess(4711, 20_000 * MIB, "VLLM::EngineCore"),)
    with pytest.raises(ResourceError) as refused:
        check_free_memory(engine(), [gpu(free=0.5, processes=processes)], owner=lambda process: "tri")
    assert "pid 4711 (VLLM::EngineCore), 20,000 MiB of your release tri" in refused.value.message
    assert refused.value.hint == (
        "tri-serve down -r tri; or end what holds it, or name other GPUs in CUDA_VISIBLE_DEVICES"
    )


def test_holders_that_a_container_does_not_see_are_said_to_be_so() -> None:
    with pytest.raises(ResourceError, match="held by programs that cannot be seen from here"):
        check_free_memory(engine(), [gpu(free=3)])


def test_every_gpu_that_is_too_full_is_told_and_the_fullest_sets_the_share() -> None:
    with pytest.raises(ResourceError) as refused:
        check_free_memory(engine(), [gpu(0, 22), gpu(1, 12), gpu(2, 8)])
    assert [line[:5] for line in refused.value.message.splitlines()] == ["GPU 1", "GPU 2"]
    assert "gpu_memory_utilization=0.34" in str(refused.value.hint)


def test_a_driver_of_an_older_major_cuda_is_refused_with_the_branch_that_works() -> None:
    old = gpu(driver="550.54.15", driver_cuda=(12, 4))
    with pytest.raises(
        ResourceError, match=r"driver 550\.54\.15 runs CUDA up to 12\.4, and vLLM .* CUDA 13\.0"
    ) as no:
        check_driver(engine(), [old])
    assert "branch 580 or newer" in str(no.value.hint)


def test_a_driver_is_not_judged_by_an_environment_that_is_not_ours() -> None:
    old = gpu(driver="550.54.15", driver_cuda=(12, 4))
    check_driver(engine(python="/opt/vllm/bin/python"), [old])
    check_driver(engine(command=("/opt/vllm/bin/vllm", "serve")), [old])


def test_the_advice_for_an_old_driver_is_one_that_up_takes() -> None:
    old = gpu(driver="550.54.15", driver_cuda=(12, 4))
    with pytest.raises(ResourceError) as refused:
        check_driver(engine(), [old])
    assert "--set engine.env.VLLM_ENABLE_CUDA_COMPATIBILITY=1" in str(refused.value.hint)
    for yes in ("1", "true", " True"):
        (warning,) = check_driver(engine(env={"VLLM_ENABLE_CUDA_COMPATIBILITY": yes}), [old])
        assert "runs CUDA up to 12.4" in warning
    with pytest.raises(ResourceError):
        check_driver(engine(env={"VLLM_ENABLE_CUDA_COMPATIBILITY": "0"}), [old])


@pytest.mark.parametrize("cuda", [(13, 0), (13, 2), (14, 0), None])
def test_a_driver_that_runs_it_or_does_not_tell_is_no_problem(cuda: tuple[int, int] | None) -> None:
    check_driver(engine(), [gpu(driver_cuda=cuda)])


def test_dockers_shared_memory_is_too_small_for_an_engine_on_two_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=64 * MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    check_engine_shared_memory(engine(), tmp_path)
    with pytest.raises(ResourceError, match="64 MiB free, and an engine on 2 GPUs needs 241 MiB") as refused:
        check_engine_shared_memory(engine(tensor_parallel_size=2), tmp_path)
    assert "--shm-size=1g" in str(refused.value.hint)


@pytest.mark.parametrize(("engines", "complains"), [(2, True), (1, False), (0, False)])
def test_only_the_gpus_of_new_engines_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, engines: int, complains: bool
) -> None:
    # The first of two replicas runs, and holds its GPU.
    monkeypatch.setattr(gpu_preflight, "devices_here", lambda environ: (gpu(0, 1), gpu(1, 22)))
    spec = Spec.model_validate({"model": {"source": "/m", "served_name": "m"}, "fleet": {"replicas": 2}})
    assert bool(found(spec, engines)) is complains


def test_gpus_that_cannot_be_read_are_a_problem_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(environ: object) -> tuple[GpuReading, ...]:
        raise ResourceError("an NVIDIA driver is here, and its GPUs cannot be read")

    monkeypatch.setattr(gpu_preflight, "devices_here", unreadable)
    spec = Spec.model_validate({"model": {"source": "/m", "served_name": "m"}})
    assert [error.message for error in found(spec, 1)] == [
        "an NVIDIA driver is here, and its GPUs cannot be read"
    ]


def found(spec: Spec, engines: int) -> list[TriServeError]:
    problems = Problems()
    check_gpus_here(spec, problems, engines=engines)
    return problems.found
