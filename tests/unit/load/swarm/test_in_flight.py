"""Open requests on average: the integral over the window, whatever lies outside."""

from __future__ import annotations

import pytest

from tri_serve.load.swarm.in_flight import InFlight

S = 1_000_000_000


def test_the_mean_is_weighted_by_time() -> None:
    flight = InFlight(10 * S, 20 * S)
    flight.enter(10 * S)
    flight.enter(14 * S)
    flight.leave(16 * S)
    flight.leave(20 * S)
    assert flight.mean(20 * S) == pytest.approx((4 * 1 + 2 * 2 + 4 * 1) / 10)
    assert flight.most == 2


def test_only_time_inside_the_window_counts() -> None:
    flight = InFlight(10 * S, 20 * S)
    flight.enter(2 * S)
    flight.leave(12 * S)
    flight.enter(18 * S)
    flight.leave(40 * S)
    assert flight.mean(40 * S) == pytest.approx((2 + 2) / 10)


def test_a_run_that_was_stopped_has_the_mean_until_then() -> None:
    flight = InFlight(10 * S, 20 * S)
    flight.enter(10 * S)
    assert flight.mean(15 * S) == pytest.approx(1.0)


def test_before_the_window_there_is_no_mean() -> None:
    flight = InFlight(10 * S, 20 * S)
    flight.enter(2 * S)
    assert flight.mean(5 * S) is None
