"""The whole plan, from presets: what its parts say of each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tri_serve.errors import UsageError
from tri_serve.plan.advice import changes
from tri_serve.plan.catalogue import find_gpu
from tri_serve.plan.constraints import apply_change
from tri_serve.plan.facts import Gpu, PlanDevice
from tri_serve.plan.make import Question, make_plan
from tri_serve.plan.model import model_facts
from tri_serve.plan.result import Plan
from tri_serve.plan.server import Load
from tri_serve.spec.load import load_spec
from tri_serve.spec.models import Spec
from tri_serve.spec.preset import load_preset, preset_names

LARGE = [name for name in preset_names() if name.startswith("tri-21b")]
CARDS_OF_24_GB = ["l4", "a10", "rtx-3090", "rtx-a5000", "rtx-4090"]
GPUS = [*CARDS_OF_24_GB, "rtx-5090", "l40s", "a100-40", "a100-80", "h100", "h200"]


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., tuple[Plan, Callable[[Spec, PlanDevice], Plan]]]:
    """A preset planned on a GPU, and what plans it otherwise."""

    def plan(
        preset: str, gpu: str, *sets: str, question: Question | None = None
    ) -> tuple[Plan, Callable[[Spec, PlanDevice], Plan]]:
        spec = load_spec(preset, [], {}, sets, gpu=gpu, without_source=True).spec
        model = model_facts(spec, load_preset(preset), tmp_path)

        def again(spec: Spec, device: PlanDevice) -> Plan:
            return make_plan(spec, model=model, device=device, question=question or Question())

        device = PlanDevice(find_gpu(gpu), count=spec.engine.tensor_parallel_size)
        return again(spec, device), again

    return plan


def nowhere(gpu: Gpu) -> Plan:
    raise AssertionError(f"nobody asked for {gpu.name}")


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("preset", LARGE)
def test_every_preset_fits_every_gpu_with_its_settings_for_it(planned, preset: str, gpu: str) -> None:
    plan, _ = planned(preset, gpu)
    assert [finding.message for finding in plan.findings if finding.severity == "refusal"] == []
    assert plan.memory is not None
    assert plan.memory.full_length_sequences >= 3
    assert plan.model.origin == f"from preset {preset}"
    assert plan.speed is not None
    assert plan.speed.evidence == "prior"


def test_a_preset_asks_for_no_more_gpus_than_it_needs(planned) -> None:
    """What the bfloat16 preset says for each GPU is the least that holds the model."""
    overlays = load_preset("tri-21b-bf16").gpus
    for gpu in GPUS:
        plan, _ = planned("tri-21b-bf16", gpu)
        assert (plan.device.count > 1) == (gpu in overlays)
        if plan.device.count > 1:
            half = f"engine.tensor_parallel_size={plan.device.count // 2}"
            assert planned("tri-21b-bf16", gpu, half)[0].refused


@pytest.mark.parametrize("gpu", CARDS_OF_24_GB)
def test_settings_for_a_24_gb_card_make_room_for_conversations(planned, gpu: str) -> None:
    with_settings = planned("tri-21b-awq", gpu)[0].memory
    unset = ("engine.max_num_seqs=null", "engine.max_num_batched_tokens=null")
    without = planned("tri-21b-awq", gpu, *unset)[0].memory
    assert with_settings is not None
    assert without is not None
    assert with_settings.full_length_sequences >= 5
    assert with_settings.kv_bytes - without.kv_bytes > 0.7 * 2**30
    # What the comment in the presets says of chats of 1,000 tokens.
    assert 30 <= without.kv_tokens // 1000 <= 45


def test_what_cannot_work_has_no_speed_and_no_command(planned) -> None:
    plan, again = planned("tri-21b-awq", "l4", "engine.tensor_parallel_size=4")
    assert plan.refused
    assert (plan.speed, plan.demand, plan.command) == (None, None, None)
    spec = load_spec("tri-21b-awq", [], {}, ["engine.tensor_parallel_size=4"], without_source=True).spec
    assert changes(plan, spec, PlanDevice(find_gpu("l4"), count=4), again, (), nowhere) == ()


def test_speed_is_told_for_the_usual_numbers_of_users_and_for_as_many_as_there_can_be(planned) -> None:
    plan, _ = planned("tri-21b-awq", "l4")
    assert plan.speed is not None
    assert plan.memory is not None
    full = [point for point in plan.speed.decode if point.context == 8192]
    most = int(plan.memory.full_length_sequences)
    assert {1, 8, 32, 64, most} <= {point.batch for point in full}
    assert max(point.batch for point in full if point.fits) == most


def test_lengths_that_are_asked_for_take_the_place_of_the_usual_ones(planned) -> None:
    plan, _ = planned("tri-21b-awq", "l4", question=Question(contexts=(2000,)))
    assert plan.speed is not None
    assert {point.context for point in plan.speed.decode} == {2000}
    assert [point.tokens for point in plan.speed.prefill] == [2000]


def test_a_load_is_planned_when_one_is_stated(planned) -> None:
    question = Question(load=Load(2.0, 1024, 256), price=1.0)
    plan, _ = planned("tri-21b-awq", "l4", question=question or Question())
    assert plan.demand is not None
    assert plan.demand.replicas is not None
    assert plan.demand.replicas.likely >= 1
    assert plan.demand.cost_per_million_output_tokens is not None
    assert planned("tri-21b-awq", "l4")[0].demand is None
    with pytest.raises(UsageError, match="max_model_len"):
        planned("tri-21b-awq", "l4", question=Question(load=Load(2.0, 8000, 1000)))


def test_every_change_that_is_advised_was_planned_and_brings_more(planned) -> None:
    plan, again = planned("tri-21b-awq", "l4")
    spec = load_spec("tri-21b-awq", [], {}, gpu="l4", without_source=True).spec
    device = PlanDevice(find_gpu("l4"))
    gpus = tuple(find_gpu(name) for name in ("a10", "l40s", "h100"))
    found = changes(plan, spec, device, again, gpus, lambda gpu: planned("tri-21b-awq", gpu.name)[0])
    assert [change.gpu for change in found if change.gpu] == ["a10", "l40s"]
    assert {"engine.kv_cache_dtype": "fp8"} in [change.keys for change in found]
    for change in found:
        if change.gpu:
            after = planned("tri-21b-awq", change.gpu)[0]
        else:
            after = again(apply_change(spec, change.keys), device)
        assert not after.refused
        assert after.memory is not None
        assert plan.memory is not None
        assert after.speed is not None
        assert plan.speed is not None
        more = after.memory.users > 1.25 * plan.memory.users
        assert more or after.speed.decode[0].rate.likely > 1.25 * plan.speed.decode[0].rate.likely
        assert after.memory.users >= plan.memory.users


def test_shorter_conversations_are_advised_only_where_few_fit(planned) -> None:
    def advised(*sets: str) -> list[dict[str, str]]:
        plan, again = planned("tri-21b-awq", "l4", *sets)
        spec = load_spec("tri-21b-awq", [], {}, sets, gpu="l4", without_source=True).spec
        found = changes(plan, spec, PlanDevice(find_gpu("l4")), again, (), nowhere)
        return [change.keys for change in found]

    shorter = {"model.max_model_len": "4096"}
    assert shorter not in advised()
    assert shorter in advised("engine.gpu_memory_utilization=0.75")


def test_nothing_that_is_refused_is_advised(planned) -> None:
    """An A100 has no kernel for an fp8 KV cache with heads of 160."""
    plan, again = planned("tri-21b-awq", "a100-40")
    spec = load_spec("tri-21b-awq", [], {}, gpu="a100-40", without_source=True).spec
    found = changes(plan, spec, PlanDevice(find_gpu("a100-40")), again, (), nowhere)
    assert all("engine.kv_cache_dtype" not in change.keys for change in found)
