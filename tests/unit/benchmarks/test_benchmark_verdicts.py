"""How wrong verdicts are counted."""

from __future__ import annotations

import pytest
import yaml

from benchmarks.load.verdicts import (
    GRADES,
    Cell,
    Kind,
    Truth,
    exit_code,
    scenario_text,
    truth_of,
    wrong_verdicts,
)
from tri_serve.load.thresholds import THRESHOLDS


def cell(truth: Truth, level: str, late: float | None = 0.3, full: float | None = 0.2) -> Cell:
    return Cell("stall", 5.0, 0.0, 0.0, truth, level, (), late, full)


def test_only_what_is_plainly_wrong_or_right_can_be_a_false_verdict() -> None:
    cells = [
        cell("wrong", "VALID"),
        cell("wrong", "SUSPECT"),
        cell("wrong", "INVALID"),
        cell("right", "INVALID"),
        cell("right", "VALID"),
        cell("between", "VALID"),
        cell("between", "INVALID"),
    ]
    assert wrong_verdicts(cells) == {"false-VALID": (1, 3), "false-INVALID": (1, 2)}


@pytest.mark.parametrize(("late", "full"), [(None, 0.2), (5.0, 0.2), (0.3, 0.95)])
def test_a_run_of_a_late_or_full_server_says_nothing(late: float | None, full: float) -> None:
    assert wrong_verdicts([cell("wrong", "VALID", late, full), cell("right", "INVALID", late, full)]) == {
        "false-VALID": (0, 0),
        "false-INVALID": (0, 0),
    }


@pytest.mark.parametrize(
    ("valid", "invalid", "code"),
    [
        ((0, 10), (0, 10), 0),
        ((1, 10), (0, 10), 1),
        # One in ten may be called INVALID though it is right, and no more.
        ((0, 10), (1, 10), 0),
        ((0, 10), (2, 10), 1),
        ((0, 10), (1, 9), 1),
        # Without a wrong figure, or without a right one, half of it was not tried.
        ((0, 0), (0, 10), 2),
        ((0, 10), (0, 0), 2),
        ((1, 10), (0, 0), 1),
    ],
)
def test_both_kinds_of_wrong_verdict_set_the_exit_code(
    valid: tuple[int, int], invalid: tuple[int, int], code: int
) -> None:
    assert exit_code({"false-VALID": valid, "false-INVALID": invalid}) == code


@pytest.mark.parametrize(
    ("kind", "error_ms", "share", "truth"),
    [
        ("stall", 1.0, 0.0, "right"),
        ("stall", 5.0, 0.0, "between"),
        ("stall", 12.0, 0.0, "wrong"),
        ("failures", 1.0, 0.07, "right"),
        ("failures", 1.0, 0.1, "between"),
        ("failures", 1.0, 0.15, "wrong"),
        ("hung", 12.0, 0.07, "wrong"),
        ("slots", 1.0, 0.05, "wrong"),
        ("slots", 1.0, 0.005, "right"),
        ("beginning", 1.0, 0.1, "right"),
        ("beginning", 1.0, 0.3, "wrong"),
    ],
)
def test_truth_is_the_error_of_the_figures_and_what_is_missing(
    kind: Kind, error_ms: float, share: float, truth: Truth
) -> None:
    assert truth_of(kind, error_ms, share) == truth


@pytest.mark.parametrize("kind", list(GRADES))
def test_each_kind_has_twenty_grades_from_nothing_to_far_too_much(kind: Kind) -> None:
    grades = GRADES[kind]
    assert len(set(grades)) == 20
    scenarios = [yaml.safe_load(scenario_text(kind, grade, 12.0)) for grade in grades]
    assert all(one["window"] == 12 for one in scenarios)


@pytest.mark.parametrize(
    ("kind", "name"), [("failures", "failures"), ("hung", "hung"), ("beginning", "beginning")]
)
def test_grades_of_shares_lie_on_both_sides_of_both_bounds(kind: Kind, name: str) -> None:
    threshold = next(one for one in THRESHOLDS if one.name == name)
    for bound in (threshold.suspect, threshold.invalid):
        assert min(GRADES[kind]) <= bound < max(GRADES[kind])
        assert min(abs(grade - bound) for grade in GRADES[kind]) <= 0.011
