"""Histograms against the values themselves and against HdrHistogram's own counting."""

from __future__ import annotations

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from tri_serve.load.figures.histogram import UNIT_NS, Histogram

HOUR_NS = 3_600 * 10**9


@pytest.fixture(name="values")
def _values() -> np.ndarray:
    chance = np.random.default_rng(7)
    edges = [0, 49, 50, 51, 100 * 2047, 100 * 2048, 100 * 4095, 100 * 4096, HOUR_NS]
    return np.concatenate([chance.lognormal(16, 3, 20_000), edges])


def test_counters_are_those_that_the_library_would_have_filled(values):
    ours, theirs = Histogram(), HdrHistogram(1, HOUR_NS // UNIT_NS, 3)
    ours.record_all(values)
    for value in values:
        theirs.record_value(min(int(np.rint(value / UNIT_NS)), HOUR_NS // UNIT_NS))
    assert ours.encode() == theirs.encode().decode()


@pytest.mark.parametrize("percent", [1, 50, 90, 99, 99.9])
def test_percentiles_are_true_to_a_thousandth(values, percent):
    histogram = Histogram()
    histogram.record_all(values)
    exact = np.percentile(values, percent, method="inverted_cdf")
    assert histogram.percentile(percent) == pytest.approx(exact, rel=0.001, abs=UNIT_NS)


def test_mean_deviation_and_extremes_are_those_of_the_values(values):
    histogram = Histogram()
    histogram.record_all(values[:9_000])
    for value in values[9_000:]:
        histogram.record(value)
    assert histogram.count == len(values)
    assert histogram.mean == pytest.approx(values.mean())
    assert histogram.std == pytest.approx(values.std())
    assert (histogram.smallest, histogram.largest) == (values.min(), values.max())


def test_halves_merge_into_the_whole(values):
    whole, half, other = Histogram(), Histogram(), Histogram()
    whole.record_all(values)
    half.record_all(values[::2])
    other.record_all(values[1::2])
    half.merge(Histogram.from_message(other.to_message()))
    assert half.encode() == whole.encode()
    assert half.mean == pytest.approx(whole.mean)
    assert half.percentiles((50, 99, 100)) == whole.percentiles((50, 99, 100))


def test_decoding_gives_the_same_percentiles_back(values):
    histogram = Histogram()
    histogram.record_all(values)
    again = Histogram.decode(histogram.encode())
    assert again.count == len(values)
    assert again.percentiles((50, 90, 99)) == histogram.percentiles((50, 90, 99))
    assert again.mean == pytest.approx(histogram.mean, rel=0.001)


def test_what_is_longer_than_an_hour_is_counted_there():
    histogram = Histogram()
    histogram.record(3 * HOUR_NS)
    assert histogram.count == 1
    assert histogram.largest == 3 * HOUR_NS
    assert histogram.buckets()[0] == pytest.approx([HOUR_NS], rel=0.001)


def test_the_share_at_or_below_a_latency_ends_at_one(values):
    histogram = Histogram()
    histogram.record_all(values)
    latencies, shares = histogram.cdf()
    assert shares[-1] == 1
    assert np.all(np.diff(shares) > 0)
    assert np.interp(1e7, latencies, shares) == pytest.approx((values <= 1e7).mean(), abs=0.002)


def test_an_empty_one_says_nothing():
    empty = Histogram.from_message(Histogram().to_message())
    assert empty.count == 0
    assert empty.percentiles((50, 99)) == (0.0, 0.0)
    assert (empty.mean, empty.std, empty.smallest, empty.largest) == (0, 0, 0, 0)
    assert len(empty.cdf()[1]) == 0
