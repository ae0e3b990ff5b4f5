"""When a dead process is started again, and when that is given up."""

from __future__ import annotations

from tri_serve.fleet.backoff import RestartBackoff


def test_delays_double_up_to_the_longest() -> None:
    backoff = RestartBackoff(limit=10, first=1.0, factor=2.0, longest=10.0)
    assert [backoff.failed(0.0) for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_crash_loop_is_given_up() -> None:
    backoff = RestartBackoff(limit=5)
    assert all(backoff.failed(3.0) is not None for _ in range(4))
    assert backoff.failed(3.0) is None


def test_a_minute_of_readiness_clears_the_record() -> None:
    backoff = RestartBackoff(limit=3, first=1.0)
    backoff.failed(0.0)
    backoff.failed(0.0)
    assert backoff.failed(60.0) == 1.0
    assert backoff.failed(59.9) == 2.0


def test_asking_for_a_restart_clears_the_record() -> None:
    backoff = RestartBackoff(limit=2, first=1.0)
    backoff.failed(0.0)
    backoff.reset()
    assert backoff.failed(0.0) == 1.0


def test_without_a_limit_nothing_is_given_up_and_delays_stay_bounded() -> None:
    backoff = RestartBackoff(limit=None, first=0.05, longest=5.0)
    delays = [backoff.failed(0.0) for _ in range(2_000)]
    assert delays[0] == 0.05
    assert delays[-1] == 5.0
