"""The page of a plan: what stands on it, and that it stands alone."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from tri_serve.plan.catalogue import find_gpu
from tri_serve.plan.facts import PlanDevice
from tri_serve.plan.make import make_plan
from tri_serve.plan.model import model_facts
from tri_serve.plan.page import page
from tri_serve.plan.result import Change, Plan
from tri_serve.spec.load import load_spec
from tri_serve.spec.preset import load_preset


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Plan]:
    """A preset planned on one L4."""

    def plan(preset: str, *sets: str) -> Plan:
        spec = load_spec(preset, [], {}, sets, gpu="l4", without_source=True).spec
        model = model_facts(spec, load_preset(preset), tmp_path)
        device = PlanDevice(find_gpu("l4"), count=spec.engine.tensor_parallel_size)
        return make_plan(spec, model=model, device=device)

    return plan


def pictures(text: str) -> list[ET.Element]:
    """The page's SVGs, parsed, so that a broken one fails."""
    return [ET.fromstring("<svg" + part.partition("</svg>")[0] + "</svg>") for part in text.split("<svg")[1:]]


def test_each_term_of_the_memory_stands_on_it_with_formula_and_source(planned) -> None:
    plan = planned("tri-21b-awq")
    text = page(plan, title="a title")
    assert plan.memory is not None
    for term in (*plan.memory.terms, *plan.memory.outside):
        assert term.name in text
    assert f"{plan.memory.kv_tokens:,} tokens" in text
    assert len(pictures(text)) == 2


def test_the_memory_is_drawn_to_scale(planned) -> None:
    plan = planned("tri-21b-awq")
    picture = pictures(page(plan, title="a title"))[0]
    bars = [float(rect.attrib["width"]) for rect in picture.iter("rect") if rect.attrib["height"] == "44"]
    assert plan.memory is not None
    assert sum(bars) == pytest.approx(860, abs=0.5)
    assert bars[0] / 860 == pytest.approx(plan.memory.terms[0].nbytes / plan.memory.total, abs=0.001)


def test_what_cannot_work_is_told_without_speed(planned) -> None:
    text = page(planned("tri-21b-awq", "engine.tensor_parallel_size=4"), title="a title")
    assert "Does not work" in text
    assert "--set engine.tensor_parallel_size=2" in text
    assert "<h2>Speed</h2>" not in text
    too_large = page(planned("tri-21b-bf16", "engine.tensor_parallel_size=1"), title="a title")
    assert "are missing before any KV cache" in too_large
    assert len(pictures(too_large)) == 1


def test_nothing_that_a_checkpoint_says_becomes_part_of_the_page(planned) -> None:
    plan = planned("tri-21b-awq")
    evil = "<script>alert(1)</script>"
    model = plan.model.model_copy(update={"origin": evil, "remarks": (evil,), "quantization": evil})
    changed = plan.model_copy(
        update={"model": model, "command": evil, "changes": (Change(keys={evil: evil}, effect=evil),)}
    )
    assert "<script" not in page(changed, title=evil)
