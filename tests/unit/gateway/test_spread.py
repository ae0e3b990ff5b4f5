"""What workers make of reports that are up to a second old: no herd, and better than chance."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import pytest

from tri_serve.gateway.policy import (
    STALE_SECONDS,
    Load,
    LoadReport,
    freshness,
    least_loaded,
    share_multiple,
    weigh,
)


def test_a_report_is_believed_while_it_is_fresh_and_fades() -> None:
    assert [freshness(age) for age in (0.0, 1.0, 2.0, 3.5, 5.0, 60.0)] == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]


def test_others_are_what_is_reported_less_ones_own_and_never_below_none() -> None:
    assert LoadReport(queued=7, at=0.0, own=3).others == 4
    assert LoadReport(queued=1, at=0.0, own=3).others == 0


def test_a_quarter_of_all_requests_stands_for_four() -> None:
    reports = [LoadReport(queued=40, at=0.0, own=9), LoadReport(queued=40, at=0.0, own=10)]
    assert share_multiple(reports, peers=16) == 4.0
    assert share_multiple([], peers=16) == 1.0
    assert share_multiple([LoadReport(queued=5, at=0.0, own=5)], peers=16) == 1.0


def test_what_goes_past_the_workers_is_not_taken_for_theirs() -> None:
    assert share_multiple([LoadReport(queued=1000, at=0.0, own=0)], peers=2) == 2.0
    assert share_multiple([LoadReport(queued=1000, at=0.0, own=0)], peers=1) == 1.0


def test_without_a_report_or_with_an_old_one_only_ones_own_requests_count() -> None:
    loads = [Load("a", 3), Load("b", 2)]
    weigh(loads[0], LoadReport(queued=3, at=0.0, own=3), 4.0, now=1.0)
    weigh(loads[1], LoadReport(queued=50, at=0.0, own=2), 4.0, now=1.0)
    assert least_loaded(loads, 0) == 0
    weigh(loads[0], None, 1.0, now=STALE_SECONDS)
    weigh(loads[1], LoadReport(queued=50, at=0.0, own=2), 1.0, now=STALE_SECONDS)
    assert [(load.others, load.multiple) for load in loads] == [(0.0, 1.0)] * 2
    assert least_loaded(loads, 0) == 1


def test_ones_own_changes_count_for_everybody_until_the_next_report() -> None:
    load = Load("a", 4)
    weigh(load, LoadReport(queued=16, at=0.0, own=4), 4.0, now=0.0)
    assert load.in_flight * load.multiple + load.others == 16
    load.in_flight += 1
    assert load.in_flight * load.multiple + load.others == 20


@dataclass
class Simulated:
    """One worker's view of all replicas."""

    loads: list[Load]
    reports: list[LoadReport]
    tie: int
    peers: int

    def report(self, replica: int, queued: int, now: float) -> None:
        self.reports[replica] = LoadReport(queued, now, self.loads[replica].in_flight)
        multiple = share_multiple(self.reports, self.peers)
        for load, report in zip(self.loads, self.reports, strict=True):
            weigh(load, report, multiple, now)


@dataclass
class Fleet:
    """Workers that send Poisson arrivals to replicas, which report once a second, each at its own moment."""

    workers: int
    replicas: int
    rate: float
    service: float
    seed: int
    spread: list[float] = field(default_factory=list)

    def run(self, choose: Callable[[Sequence[Load], int], int], seconds: float = 40.0) -> float:
        """The mean over time of the fullest replica's requests over the mean replica's."""
        rng = random.Random(self.seed)
        workers = [
            Simulated(
                [Load(str(number), 0) for number in range(self.replicas)],
                [LoadReport(0, 0.0, 0)] * self.replicas,
                rng.randrange(1000),
                self.workers,
            )
            for _ in range(self.workers)
        ]
        order = count()
        events: list[tuple[float, int, str, int, int]] = []

        def at(when: float, what: str, worker: int = 0, replica: int = 0) -> None:
            heapq.heappush(events, (when, next(order), what, worker, replica))

        for replica in range(self.replicas):
            at(replica / self.replicas, "report", replica=replica)
        at(0.0, "arrival")
        at(5.0, "look")
        while events[0][0] < seconds:
            now, _, what, number, replica = heapq.heappop(events)
            queued = [sum(w.loads[index].in_flight for w in workers) for index in range(self.replicas)]
            if what == "report":
                for worker in workers:
                    worker.report(replica, queued[replica], now)
                at(now + 1.0, "report", replica=replica)
            elif what == "arrival":
                number = rng.randrange(self.workers)
                worker = workers[number]
                worker.tie += 1
                replica = choose(worker.loads, worker.tie)
                worker.loads[replica].in_flight += 1
                at(now + rng.expovariate(1 / self.service), "end", number, replica)
                at(now + rng.expovariate(self.rate), "arrival")
            elif what == "end":
                workers[number].loads[replica].in_flight -= 1
            else:
                if any(queued):
                    self.spread.append(max(queued) * self.replicas / sum(queued))
                at(now + 0.1, "look")
        return sum(self.spread) / len(self.spread)


@pytest.mark.parametrize(
    ("workers", "replicas", "rate", "service"),
    [(4, 4, 40.0, 2.0), (8, 8, 40.0, 2.0), (8, 2, 40.0, 2.0), (4, 4, 200.0, 0.2)],
)
def test_workers_with_old_reports_spread_better_than_chance(
    workers: int, replicas: int, rate: float, service: float
) -> None:
    def fleet() -> Fleet:
        return Fleet(workers, replicas, rate, service, seed=7)

    chance = random.Random(7)
    by_chance = fleet().run(lambda loads, _: chance.randrange(len(loads)))
    by_load = fleet().run(least_loaded)
    # Half of what chance puts above the mean, at most.
    assert by_load - 1 < (by_chance - 1) / 2, (by_load, by_chance)


def test_a_replica_that_others_fill_is_left_alone() -> None:
    """Two replicas, one of them busy with requests that this worker never saw."""
    loads = [Load("a", 0), Load("b", 0)]
    reports = [LoadReport(queued=12, at=0.0, own=0), LoadReport(queued=0, at=0.0, own=0)]
    for load, report in zip(loads, reports, strict=True):
        weigh(load, report, share_multiple(reports, peers=1), now=0.0)
    chosen = [least_loaded(loads, tie) for tie in range(3)]
    assert chosen == [1, 1, 1]
