"""How wrong verdicts are counted."""

from __future__ import annotations

import pytest

from benchmarks.load.verdicts import Cell, truth_of, wrong_verdicts


def cell(truth, level, late=0.3):
    return Cell("stall", 5.0, 0.0, truth, level, (), late)


def test_only_what_is_plainly_wrong_or_right_can_be_a_false_verdict():
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


@pytest.mark.parametrize("late", [None, 5.0])
def test_a_run_of_a_late_server_says_nothing(late):
    assert wrong_verdicts([cell("wrong", "VALID", late), cell("right", "INVALID", late)]) == {
        "false-VALID": (0, 0),
        "false-INVALID": (0, 0),
    }


@pytest.mark.parametrize(
    ("error_ms", "failing", "truth"),
    [
        (1.0, 0.0, "right"),
        (5.0, 0.0, "between"),
        (12.0, 0.0, "wrong"),
        (1.0, 0.08, "right"),
        (1.0, 0.12, "wrong"),
        (12.0, 0.08, "wrong"),
    ],
)
def test_truth_is_the_error_of_the_figures_and_the_share_that_failed(error_ms, failing, truth):
    assert truth_of(error_ms, failing) == truth
