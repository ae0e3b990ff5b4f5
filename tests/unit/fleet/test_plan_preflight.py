"""What the plan refuses is refused before an engine starts, on GPUs that are made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tri_serve.checkpoint.sizes import write_hollow_checkpoint
from tri_serve.errors import LaunchError
from tri_serve.fleet.plan_preflight import check_plan
from tri_serve.launch.gpus import GpuReading, plan_device
from tri_serve.plan.catalogue import find_gpu
from tri_serve.plan.facts import PlanDevice
from tri_serve.plan.model import model_facts
from tri_serve.spec.models import Spec
from tri_serve.spec.preset import load_preset

GIB = 2**30


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Tri-21B in AWQ, its weights a hole."""
    config = load_preset("tri-21b-awq").config
    assert config is not None
    write_hollow_checkpoint(tmp_path / "awq", config)
    return tmp_path / "awq"


def spec(checkpoint: Path, **engine: object) -> Spec:
    model = {"source": str(checkpoint), "served_name": "tri-21b"}
    return Spec.model_validate({"model": model, "engine": {"device": "cuda"} | engine})


def judged(asked: Spec, device: PlanDevice) -> tuple[str, ...]:
    """Its warnings."""
    return check_plan(asked, device, model_facts(asked, None, Path()))


def test_tri_21b_in_awq_is_served_on_one_24_gb_card_whoever_else_is_on_it(
    checkpoint: Path,
) -> None:
    # What others hold is told of each GPU by name; see check_free_memory.
    judged(spec(checkpoint), PlanDevice(find_gpu("l4"), free=0))


def test_a_board_that_nobody_knows_is_judged_by_its_memory(checkpoint: Path) -> None:
    board = GpuReading(
        index=0,
        uuid="GPU-0",
        name="NVIDIA X1",
        total=24 * GIB,
        reserved=0,
        free=24 * GIB,
        compute_capability=(12, 0),
        driver="580.65.06",
        driver_cuda=(13, 0),
    )
    judged(spec(checkpoint), plan_device([board], 1))
    with pytest.raises(LaunchError, match="the model does not fit"):
        judged(spec(checkpoint), plan_device([replace(board, total=12 * GIB)], 1))


def test_groups_that_do_not_divide_among_the_gpus_are_refused_with_what_works(
    checkpoint: Path,
) -> None:
    with pytest.raises(LaunchError, match=r"\(rule group-size-tensor-parallel\)") as refused:
        judged(spec(checkpoint, tensor_parallel_size=4), PlanDevice(find_gpu("l4"), count=4))
    assert "--set engine.tensor_parallel_size=2 works" in str(refused.value.hint)


def test_a_card_that_is_too_small_is_refused_in_bytes(checkpoint: Path) -> None:
    small = PlanDevice(find_gpu("l4"), total=12 * GIB)
    with pytest.raises(LaunchError, match=r"the model does not fit: weights take 11\.8 GiB"):
        judged(spec(checkpoint), small)
