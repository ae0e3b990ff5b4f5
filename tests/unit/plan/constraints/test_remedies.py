"""A change that is named works: it is made, and every rule is asked again."""

from collections.abc import Callable
from typing import Any

import pytest

from tri_serve.plan.constraints import Request, check, remedied

Ask = Callable[..., Request]


@pytest.mark.parametrize("gpu", ["l4", "a10", "h100", "cpu", "t4"])
@pytest.mark.parametrize("ranks", [1, 3, 4])
@pytest.mark.parametrize("dtype", ["auto", "fp8"])
@pytest.mark.parametrize("length", [None, 65_536])
def test_each_change_that_is_named_is_refused_by_no_rule(
    ask: Ask, gpu: str, ranks: int, dtype: str, length: int | None
) -> None:
    request = ask(
        gpu,
        engine={"tensor_parallel_size": ranks, "kv_cache_dtype": dtype},
        spec_model={"max_model_len": length},
        planned=True,
    )
    findings = remedied(request)
    changes = [finding.change for finding in findings if finding.severity == "refusal" and finding.change]
    if any(finding.severity == "refusal" for finding in findings):
        assert changes
    for change in changes:
        left = [one for one in check(request.changed(change)) if one.severity == "refusal"]
        assert left == [], change
    keys = [key for finding in findings for key in finding.change]
    assert len(keys) == len(set(keys))


def test_a_way_out_that_another_rule_refuses_is_not_named(ask: Ask) -> None:
    """65,536 tokens fit in fewer GPUs' memory than there are, but the model was made for 8,192."""
    context, memory = (
        one
        for one in remedied(ask(spec_model={"max_model_len": 65_536}, planned=True))
        if one.severity == "refusal"
    )
    assert context.change == {"model.max_model_len": "8192"}
    assert (memory.rule, memory.change, memory.advice) == ("memory", {}, "")


def test_several_changes_that_work_only_together_stand_together(ask: Ask) -> None:
    engine = {"kv_cache_dtype": "fp8"}
    findings = remedied(ask("a10", engine=engine, spec_model={"max_model_len": 65_536}, planned=True))
    first, *_, last = [one for one in findings if one.severity == "refusal"]
    assert first.change == {}
    assert last.change == {"engine.kv_cache_dtype": "auto", "model.max_model_len": "8192"}


@pytest.mark.parametrize(("gpu", "asked", "works"), [("l4", "cpu", "cuda"), ("cpu", "cuda", "cpu")])
def test_a_plan_for_one_device_with_a_command_for_another_is_refused(
    ask: Ask, only: Any, gpu: str, asked: str, works: str
) -> None:
    finding = only(ask(gpu, engine={"device": asked}), "device")
    assert finding.severity == "refusal"
    assert finding.message.startswith(f"engine.device is {asked}, and this plan is for ")
    assert finding.change == {"engine.device": works}


def test_heads_that_cannot_be_spread_are_the_only_refusal(ask: Ask) -> None:
    refused = [one for one in check(ask(engine={"tensor_parallel_size": 3})) if one.severity == "refusal"]
    assert [one.rule for one in refused] == ["heads-tensor-parallel"]
