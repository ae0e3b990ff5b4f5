"""What changed between two specs."""

from __future__ import annotations

from tri_serve.spec.difference import Change, difference
from tri_serve.spec.load import load_spec
from tri_serve.spec.models import Spec


def spec_with(*sets: str) -> Spec:
    return load_spec(None, [], {}, sets).spec


def test_equal_specs_do_not_differ() -> None:
    assert difference(spec_with("gateway.port=8001"), spec_with("gateway.port=8001")) == ()


def test_changes_come_in_the_order_of_the_models_with_both_values() -> None:
    old = spec_with("gateway.port=8001")
    new = spec_with("gateway.timeouts.head=5", "fleet.replicas=3", "engine.extra_args=[--a, b]")
    changes = difference(old, new)
    assert changes == (
        Change("engine.extra_args", (), ("--a", "b")),
        Change("fleet.replicas", 2, 3),
        Change("gateway.port", 8001, 8000),
        Change("gateway.timeouts.head", 10.0, 5.0),
    )
    assert [str(change) for change in changes][:2] == [
        "engine.extra_args: [] -> [--a, b]",
        "fleet.replicas: 2 -> 3",
    ]


def test_variables_of_the_engine_are_compared_one_by_one() -> None:
    old, new = spec_with("engine.env.A=1"), spec_with("engine.env.B=2", "engine.env.HF_TOKEN=x")
    assert [str(change) for change in difference(old, new)] == [
        "engine.env.A: 1 -> not set",
        "engine.env.B: not set -> 2",
        "engine.env.HF_TOKEN: not set -> ********",
    ]
    assert [change.key for change in difference(spec_with(), spec_with("engine.env.A=1"))] == ["engine.env.A"]


def test_a_number_that_becomes_keys_and_back_is_one_change() -> None:
    number, bounds = spec_with("fleet.replicas=3"), spec_with("fleet.replicas.max=4")
    words = "{min: 1, max: 4, target: 16.0, scale_up_after: 10.0, scale_down_after: 300.0}"
    assert [str(change) for change in difference(number, bounds)] == [f"fleet.replicas: 3 -> {words}"]
    assert [str(change) for change in difference(bounds, number)] == [f"fleet.replicas: {words} -> 3"]
    more = spec_with("fleet.replicas.max=5")
    assert [str(change) for change in difference(bounds, more)] == ["fleet.replicas.max: 4 -> 5"]
