"""Arrivals: exact, seeded, the same however they are shared."""

from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest

from tri_serve.errors import UsageError
from tri_serve.load.records import Phase
from tri_serve.load.scenario.models import ClosedLoop, Scenario
from tri_serve.load.schedule import Schedule, closed_index, closed_start

PARTS = {"parts": ({"kind": "written", "name": "a", "input": {"fixed": 8}},)}

EVERY_KIND: list[dict[str, Any]] = [
    {"kind": "constant", "rate": 20.0},
    {"kind": "poisson", "rate": 20.0},
    {"kind": "gamma", "rate": 20.0, "burstiness": 0.3},
    {"kind": "ramp", "from_rate": 0.0, "to_rate": 40.0},
    {"kind": "steps", "steps": ({"rate": 5.0, "seconds": 7.0}, {"rate": 35.0, "seconds": 7.0})},
    {"kind": "spike", "rate": 10.0, "spike_rate": 60.0, "at": 5.0, "seconds": 3.0},
]


def scenario(arrivals: dict[str, Any], **keys: Any) -> Scenario:
    times = {"warm_up": 5.0, "window": 30.0, "cool_down": 4.0, **keys}
    return Scenario.model_validate({"title": "t", "arrivals": arrivals, "workload": PARTS, **times})


@pytest.mark.parametrize("arrivals", EVERY_KIND, ids=lambda arrivals: str(arrivals["kind"]))
@pytest.mark.parametrize("workers", [2, 3, 7])
def test_the_workers_together_send_what_one_would(arrivals: dict[str, Any], workers: int) -> None:
    described = scenario(arrivals)
    alone = list(Schedule(described).share(0))
    shares = [list(Schedule(described, workers).share(worker)) for worker in range(workers)]
    assert sorted(itertools.chain(*shares)) == alone
    assert all(arrival.index % workers == worker for worker, share in enumerate(shares) for arrival in share)
    assert len(alone) > 100


@pytest.mark.parametrize("arrivals", EVERY_KIND, ids=lambda arrivals: str(arrivals["kind"]))
def test_arrivals_are_in_order_and_each_in_its_phase(arrivals: dict[str, Any]) -> None:
    sent = list(Schedule(scenario(arrivals)).share(0))
    assert [arrival.index for arrival in sent] == list(range(len(sent)))
    assert all(a.at <= b.at for a, b in itertools.pairwise(sent))
    for arrival in sent:
        due = Phase.WARM_UP if arrival.at < 5 else Phase.WINDOW if arrival.at < 35 else Phase.COOL_DOWN
        assert arrival.phase is due
        assert 0 <= arrival.at < 39


@pytest.mark.parametrize("arrivals", EVERY_KIND, ids=lambda arrivals: str(arrivals["kind"]))
def test_as_many_arrive_as_the_rate_says(arrivals: dict[str, Any]) -> None:
    schedules = [Schedule(scenario(arrivals, seed=seed)) for seed in range(60)]
    counts = np.array([sum(1 for _ in schedule.share(0)) for schedule in schedules])
    expected = schedules[0].expected()
    # Three standard errors of the mean, and the constant kind's rounding.
    assert abs(counts.mean() - expected) <= 3 * counts.std() / len(counts) ** 0.5 + 1


def test_another_seed_gives_other_times() -> None:
    poisson = EVERY_KIND[1]
    assert next(Schedule(scenario(poisson)).share(0)) != next(Schedule(scenario(poisson, seed=2)).share(0))


def test_constant_arrivals_do_not_drift() -> None:
    last = list(Schedule(scenario({"kind": "constant", "rate": 30.0}, window=3600.0)).share(0))[-1]
    assert last.at == last.index / 30


def test_poisson_gaps_are_exponential_and_gamma_gaps_as_bursty_as_asked() -> None:
    for burstiness, arrivals in [
        (1.0, {"kind": "poisson", "rate": 100.0}),
        (0.25, {"kind": "gamma", "rate": 100.0, "burstiness": 0.25}),
        (4.0, {"kind": "gamma", "rate": 100.0, "burstiness": 4.0}),
    ]:
        times = [arrival.at for arrival in Schedule(scenario(arrivals, window=600.0)).share(0)]
        gaps = np.diff(times)
        assert gaps.mean() == pytest.approx(0.01, rel=0.03)
        # A gamma distribution's coefficient of variation is 1/√shape.
        assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.05)


def test_the_steps_begin_with_the_window_and_come_again() -> None:
    steps = {"kind": "steps", "steps": ({"rate": 10.0, "seconds": 10.0}, {"rate": 200.0, "seconds": 5.0})}
    schedule = Schedule(scenario(steps))
    by_second = Counter(int(arrival.at) for arrival in schedule.share(0))
    busy = [second for second in range(39) if by_second[second] > 100]
    assert busy == [15, 16, 17, 18, 19, 30, 31, 32, 33, 34]
    assert (schedule.rate_at(2), schedule.rate_at(15), schedule.rate_at(38), schedule.rate_at(40)) == (
        10,
        200,
        10,
        0,
    )


def test_a_step_of_no_load_sends_nothing() -> None:
    steps = {"kind": "steps", "steps": ({"rate": 50.0, "seconds": 10.0}, {"rate": 0.0, "seconds": 10.0})}
    assert not [a for a in Schedule(scenario(steps)).share(0) if 15 <= a.at < 25]


def test_the_ramp_climbs_over_the_window() -> None:
    schedule = Schedule(scenario({"kind": "ramp", "from_rate": 0.0, "to_rate": 400.0}))
    by_second = Counter(int(arrival.at) for arrival in schedule.share(0))
    assert not any(by_second[second] for second in range(5))
    assert by_second[10] == pytest.approx(400 * 5.5 / 30, rel=0.4)
    assert by_second[34] == pytest.approx(400 * 29.5 / 30, rel=0.2)
    assert by_second[37] == pytest.approx(400, rel=0.2)


def test_requests_end_the_window_and_the_cool_down_follows_at_once() -> None:
    schedule = Schedule(scenario({"kind": "constant", "rate": 10.0}, requests=100))
    phases = Counter(arrival.phase for arrival in schedule.share(0))
    assert phases == {Phase.WARM_UP: 50, Phase.WINDOW: 100, Phase.COOL_DOWN: 39}
    assert schedule.window_end() == pytest.approx(5 + 9.9)
    more = Schedule(scenario({"kind": "constant", "rate": 10.0}, requests=10_000))
    assert more.window_end() == 35


def test_a_million_arrivals_take_no_memory() -> None:
    schedule = Schedule(
        scenario({"kind": "poisson", "rate": 50_000.0}, window=20.0, warm_up=0.0, cool_down=0.0), 8
    )
    tracemalloc.start()
    count = sum(1 for _ in schedule.share(3))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count > 120_000
    assert peak < 2_000_000


def test_a_closed_loop_has_no_schedule() -> None:
    with pytest.raises(UsageError, match="closed has no schedule"):
        Schedule(scenario({"kind": "closed", "users": 4}))


def test_closed_users_start_one_after_the_other_and_never_share_a_number() -> None:
    loop = ClosedLoop(users=4, stagger=2.0)
    assert [closed_start(loop, user) for user in range(4)] == [0, 0.5, 1, 1.5]
    assert sorted(closed_index(loop, user, asked) for user in range(4) for asked in range(5)) == list(
        range(20)
    )
