"""Differences that are chance, differences that are not, and what a command ends with."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tri_serve.errors import ClientSaturatedError, RegressionError, ServerUnhealthyError, UsageError
from tri_serve.load.results.compare import compare, error_of
from tri_serve.load.results.compare_text import comparison_text
from tri_serve.load.results.resampling import log_ratio_interval


def of(comparison, name):
    return next(it for it in comparison.differences if it.name == name)


def test_a_slower_server_is_a_regression_with_its_size_in_the_interval(make_result):
    found = compare([make_result("a")], [make_result("b", seed=2, slower=1.3)])
    tpot = of(found, "tpot p50")
    assert tpot.low < 0.3 < tpot.high
    assert tpot.direction == "worse"
    assert "tpot p50" in found.regressions
    assert isinstance(error_of(found), RegressionError)
    assert error_of(found).exit_code == 3


def test_the_same_server_again_is_no_regression(make_result):
    found = compare([make_result("a")], [make_result("b", seed=3)])
    assert found.regressions == ()
    assert error_of(found) is None
    assert of(found, "tpot p50").direction == "no difference"


def test_a_faster_server_is_better_and_no_regression(make_result):
    found = compare([make_result("a")], [make_result("b", slower=0.7)])
    assert of(found, "ttft_sched p50").direction == "better"
    assert found.regressions == ()


def test_what_is_allowed_is_no_regression(make_result):
    base, other = make_result("a"), make_result("b", slower=1.3)
    assert compare([base], [other], allowed=0.2).regressions
    assert not compare([base], [other], allowed=0.5).regressions


def test_the_same_results_give_the_same_intervals(make_result):
    base, other = make_result("a"), make_result("b", seed=2)
    assert compare([base], [other]) == compare([base], [other])


def test_the_p99_of_few_requests_is_shown_and_not_judged(make_result):
    found = compare([make_result("a")], [make_result("b", slower=3.0)])
    assert not of(found, "ttft_sched p99").judged
    assert "ttft_sched p99" not in found.regressions
    many = compare([make_result("a", rate=10)], [make_result("b", rate=10, slower=3.0)])
    assert "ttft_sched p99" in many.regressions


def test_rounds_are_compared_by_rounds(make_result):
    base = [make_result(f"a{seed}", seed=seed) for seed in range(3)]
    other = [make_result(f"b{seed}", seed=seed + 10, slower=1.2) for seed in range(3)]
    found = compare(base, other)
    assert found.by == "rounds"
    assert "tpot p50" in found.regressions
    assert not any("one run a side" in remark for remark in found.remarks)
    assert compare(base[:2], other).by == "requests"


def test_requests_alone_leave_out_what_differs_between_runs_and_this_is_said(make_result):
    found = compare([make_result("a")], [make_result("b")])
    assert any("one run a side" in remark for remark in found.remarks)


def test_goodput_that_fell_is_worse(make_result):
    found = compare([make_result("a")], [make_result("b", failing=0.2)])
    assert of(found, "goodput").direction == "worse"
    assert of(found, "goodput").change == pytest.approx(-0.2, abs=0.08)


def test_unlike_runs_are_told(make_result):
    other = make_result("b")
    other = other.model_copy(update={"workload": other.workload.model_copy(update={"hash": "8" * 64})})
    assert any("did not ask the same" in remark for remark in compare([make_result("a")], [other]).remarks)


def test_nothing_follows_from_a_run_whose_client_was_the_limit(make_result):
    slow = make_result("b", slower=2.0)
    reason = make_result("c", failing=1.0).verdict.reasons[0]
    reason = reason.model_copy(update={"cause": "client"})
    saturated = slow.model_copy(update={"verdict": slow.verdict.model_copy(update={"reasons": (reason,)})})
    found = compare([make_result("a")], [saturated])
    assert not found.believed
    assert isinstance(error_of(found), ClientSaturatedError)


def test_a_side_without_answers_leaves_nothing_to_compare(make_result):
    found = compare([make_result("a", failing=1.0)], [make_result("b", failing=1.0)])
    assert found.differences == ()
    assert "nothing follows from this comparison" in comparison_text(found)
    assert isinstance(error_of(found), ServerUnhealthyError)


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_server_that_answers_nothing_any_more_is_a_regression(make_result, rounds):
    base = [make_result(f"a{seed}", seed=seed) for seed in range(rounds)]
    dead = [make_result(f"b{seed}", seed=seed, failing=1.0) for seed in range(rounds)]
    found = compare(base, dead)
    assert {"ttft_sched p50", "output tok/s", "goodput"} <= set(found.regressions)
    assert of(found, "ttft_sched p50").other is None
    assert of(found, "goodput").change == -1
    assert not found.believed
    assert error_of(found).exit_code == 3
    assert max(len(line) for line in comparison_text(found).splitlines()) <= 80
    back = compare(dead, base)
    assert {it.direction for it in back.differences} == {"better"}
    assert error_of(back).exit_code == 5


def test_one_dead_round_of_three_is_a_regression(make_result):
    base = [make_result(f"a{seed}", seed=seed) for seed in range(3)]
    other = [make_result(f"b{seed}", seed=seed + 9, failing=float(seed == 1)) for seed in range(3)]
    found = compare(base, other)
    assert {"tpot p50", "goodput"} <= set(found.regressions)


def test_a_run_that_was_stopped_proves_nothing(make_result):
    found = compare([make_result("a")], [make_result("b", complete=False)])
    assert not found.believed
    assert isinstance(error_of(found), UsageError)
    assert "nothing follows" in comparison_text(found) or found.regressions


def test_no_result_is_refused(make_result):
    with pytest.raises(UsageError):
        compare([], [make_result()])


def test_the_table_is_80_columns_and_names_the_regressions(make_result):
    text = comparison_text(compare([make_result("a")], [make_result("b", slower=1.3)]))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "REGRESSION" in text
    assert "no regression" in comparison_text(compare([make_result("a")], [make_result("b", slower=0.9)]))


def test_the_interval_of_rounds_is_welchs():
    # By hand: logarithms 0, 0.2 and 0.4 against 1, 1.2 and 1.4: difference 1, error sqrt(2 x 0.04 / 3), 4 degrees.
    low, high = log_ratio_interval(
        [1.0, math.exp(0.2), math.exp(0.4)], [math.exp(1 + it) for it in (0.0, 0.2, 0.4)]
    )
    reach = 2.776 * math.sqrt(2 * 0.04 / 3)
    assert (math.log1p(low), math.log1p(high)) == pytest.approx((1 - reach, 1 + reach))


def test_the_interval_of_rounds_holds_the_truth_as_often_as_it_says():
    chance = np.random.default_rng(11)
    held = 0
    for _ in range(400):
        base, other = (np.exp(chance.normal(mean, 0.1, 4)).tolist() for mean in (0.0, 0.05))
        low, high = log_ratio_interval(base, other)
        held += low <= math.expm1(0.05) <= high
    assert 0.92 <= held / 400 <= 0.99


def test_what_is_smaller_than_what_can_be_measured_is_the_same(make_result):
    base = [make_result(f"a{seed}", seed=seed) for seed in range(3)]
    other = [_faster(run, 0.998) for run in base]
    (wide,) = [
        it for it in compare(base, [_faster(run, 0.9) for run in base]).differences if it.name == "tpot p50"
    ]
    assert wide.direction == "better"
    same = compare([base[0]] * 3, [other[0]] * 3)
    tpot = of(same, "tpot p50")
    assert tpot.change == pytest.approx(-0.002)
    assert tpot.high < 0
    assert tpot.direction == "no difference"
    # Whoever allows nothing is told everything.
    assert of(compare([other[0]] * 3, [base[0]] * 3, allowed=0), "tpot p50").direction == "worse"


def _faster(run, ratio):
    tpot = run.figures.latencies["tpot"]
    tpot = tpot.model_copy(update={"p50": ratio * tpot.p50})
    figures = run.figures.model_copy(update={"latencies": {**run.figures.latencies, "tpot": tpot}})
    return run.model_copy(update={"figures": figures})


def test_too_few_rounds_are_told_with_their_numbers(make_result):
    base = [make_result(f"a{seed}", seed=seed) for seed in range(3)]
    remarks = compare(base, base[:2]).remarks
    assert any("3 runs of base and 2 of other" in remark and "only a0 and a0" in remark for remark in remarks)
