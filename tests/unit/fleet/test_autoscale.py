"""How many replicas a fleet should have for its load, on a clock that the test moves."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from tri_serve.fleet.autoscale import TOLERANCE, Autoscaler
from tri_serve.spec.fleet import Autoscaling

RULE = Autoscaling(min=1, max=8, target=10, scale_up_after=10, scale_down_after=300)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Fleet:
    """Replicas that are there as soon as they are wished for, looked at once a second."""

    rule: Autoscaling
    replicas: int

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.scaler = Autoscaler(self.rule, self.clock)
        self.history: list[int] = []

    def live(self, loads: Iterable[int]) -> list[int]:
        """The number of replicas after each second."""
        lived = []
        for load in loads:
            self.replicas = self.scaler.observe(load, self.replicas)
            lived.append(self.replicas)
            self.clock.now += 1.0
        self.history += lived
        return lived


def steady(load: int, seconds: int) -> list[int]:
    return [load] * seconds


def test_a_load_that_lasts_adds_replicas_when_the_time_is_over_and_not_before() -> None:
    fleet = Fleet(RULE, 1)
    assert fleet.live(steady(35, 10)) == [1] * 10
    assert fleet.live(steady(35, 1)) == [4]


def test_a_load_that_is_gone_drains_replicas_when_the_time_is_over_and_not_before() -> None:
    fleet = Fleet(RULE, 4)
    fleet.live(steady(40, 20))
    assert set(fleet.live(steady(5, 300))) == {4}
    assert fleet.live(steady(5, 1)) == [1]


def test_a_fleet_that_was_not_watched_before_keeps_its_size_for_a_whole_window() -> None:
    fleet = Fleet(RULE, 4)
    assert set(fleet.live(steady(5, 300))) == {4}
    assert fleet.live(steady(5, 1)) == [1]


def test_a_burst_shorter_than_the_window_moves_nothing() -> None:
    fleet = Fleet(RULE, 2)
    fleet.live(steady(20, 400))
    for _ in range(20):
        fleet.live([*steady(80, 9), *steady(20, 30)])
    assert set(fleet.history) == {2}


def test_a_pause_shorter_than_the_window_moves_nothing() -> None:
    fleet = Fleet(RULE, 8)
    fleet.live(steady(80, 400))
    for _ in range(10):
        fleet.live([*steady(0, 299), *steady(80, 2)])
    assert set(fleet.history) == {8}


def test_growth_takes_the_smallest_wish_of_its_window_and_shrinking_the_largest() -> None:
    fleet = Fleet(RULE, 1)
    assert fleet.live([*steady(80, 5), *steady(30, 5), 80])[-1] == 3
    fleet = Fleet(RULE, 8)
    fleet.live(steady(80, 1))
    assert fleet.live([*steady(10, 150), *steady(50, 1), *steady(10, 160)])[-1] == 5


def test_a_ramp_is_followed_up_and_down() -> None:
    fleet = Fleet(RULE, 1)
    up = fleet.live(range(80))
    assert up == sorted(up)
    # Ten seconds behind, and a tolerance: never further.
    assert all(abs(count - max(1, -(-(second - 10) // 10))) <= 1 for second, count in enumerate(up))
    fleet.live(steady(80, 400))
    down = fleet.live([*(80 - second // 10 for second in range(800)), *steady(0, 301)])
    assert down == sorted(down, reverse=True)
    assert down[-1] == RULE.min


@pytest.mark.parametrize("load", [18, 19, 20, 21, 22])
def test_a_load_near_what_the_replicas_are_meant_for_is_left_alone(load: int) -> None:
    fleet = Fleet(RULE, 2)
    fleet.live(steady(load, 1000))
    assert set(fleet.history) == {2}


def test_a_load_that_swings_within_the_tolerance_is_left_alone() -> None:
    fleet = Fleet(Autoscaling(min=1, max=8, target=10, scale_up_after=0, scale_down_after=0), 3)
    fleet.live([28, 31, 33, 27, 30, 32] * 50)
    assert set(fleet.history) == {3}


def test_without_windows_each_look_decides() -> None:
    rule = Autoscaling(min=1, max=8, target=10, scale_up_after=0, scale_down_after=0)
    assert Fleet(rule, 1).live([0, 35, 5, 80, 1000, 0]) == [1, 4, 1, 8, 8, 1]


def test_a_fleet_outside_the_bounds_is_brought_back_at_once() -> None:
    assert Fleet(RULE, 20).live([200]) == [8]
    assert Fleet(RULE.model_copy(update={"min": 3}), 1).live([0]) == [3]


@pytest.mark.parametrize("load", [0, 500])
def test_a_fleet_whose_replicas_all_died_gets_the_fewest_first(load: int) -> None:
    assert Fleet(RULE, 0).live([load]) == [1]


def test_replicas_that_are_slow_to_come_do_not_raise_the_wish() -> None:
    clock = Clock()
    scaler = Autoscaler(RULE, clock)
    wished = []
    for _ in range(200):
        wished.append(scaler.observe(35, 1))
        clock.now += 1
    assert set(wished[:10]) == {1}
    assert set(wished[10:]) == {4}


def test_bounds_windows_and_one_direction_at_a_time_hold_for_any_load() -> None:
    """Random walks with spikes: whatever comes, no step breaks what the rule promises."""
    for seed in range(40):
        chance = random.Random(seed)
        rule = Autoscaling(
            min=chance.randint(1, 3),
            max=chance.randint(3, 10),
            target=chance.choice([0.5, 1, 7, 16]),
            scale_up_after=chance.choice([0, 1, 10, 25]),
            scale_down_after=chance.choice([0, 5, 60]),
        )
        fleet = Fleet(rule, rule.min)
        loads = random_loads(chance, rule)
        before = [rule.min, *fleet.live(loads)]
        for second, (old, new) in enumerate(zip(before, fleet.history, strict=False)):
            assert rule.min <= new <= rule.max
            if new > old:
                window = loads[max(0, second - int(rule.scale_up_after)) : second + 1]
                assert (
                    min(window) > old * rule.target * (1 + TOLERANCE) or min(window) > (new - 1) * rule.target
                )
            if new < old:
                window = loads[max(0, second - int(rule.scale_down_after)) : second + 1]
                assert max(window) <= new * rule.target * (1 + TOLERANCE)
        fleet.live(steady(0, 100))
        assert fleet.replicas == rule.min
        fleet.live(steady(10_000, 30))
        assert fleet.replicas == rule.max


def random_loads(chance: random.Random, rule: Autoscaling) -> list[int]:
    most = int(rule.target * rule.max * 1.5)
    loads = [0]
    for _ in range(400):
        spike = chance.random() < 0.25
        load = chance.randint(0, most) if spike else loads[-1] + chance.randint(-3, 3)
        loads.append(min(max(0, load), most))
    return loads
