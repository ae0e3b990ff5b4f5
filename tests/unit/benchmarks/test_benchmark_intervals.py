"""Means and intervals of paired rounds."""

from __future__ import annotations

import math

import pytest

from benchmarks.gateway.intervals import of_differences, of_ratios


def test_interval_of_two_values_uses_students_t_of_one_degree():
    interval = of_differences([1.0, 3.0])

    assert interval.mean == 2.0
    assert interval.low == pytest.approx(2 - 12.706)
    assert interval.high == pytest.approx(2 + 12.706)


def test_interval_of_ten_rounds_agrees_with_the_textbook():
    interval = of_differences([float(value) for value in range(1, 11)])

    # stdev 3.02765, t(9) = 2.262.
    assert interval.mean == 5.5
    assert interval.high - interval.mean == pytest.approx(2.262 * 3.02765 / math.sqrt(10), rel=1e-4)


def test_more_rounds_than_the_table_has_still_get_an_interval():
    interval = of_differences([0.0, 1.0] * 25)

    assert interval.mean == 0.5
    assert 0.14 < interval.high - interval.mean < 0.15


def test_one_round_has_a_mean_and_no_interval():
    interval = of_differences([7.0])

    assert interval.mean == 7.0
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_ratios_are_averaged_geometrically():
    interval = of_ratios([2.0, 1.0], [1.0, 2.0])

    assert interval.mean == pytest.approx(1.0)
    assert interval.low * interval.high == pytest.approx(1.0)


def test_a_constant_ratio_has_no_spread_however_the_rounds_differ():
    interval = of_ratios([20.0, 200.0, 2.0], [10.0, 100.0, 1.0])

    assert (interval.mean, interval.low, interval.high) == pytest.approx((2.0, 2.0, 2.0))


def test_rounds_that_do_not_pair_up_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        of_ratios([1.0, 2.0], [1.0])
