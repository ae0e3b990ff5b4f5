"""The dispatcher on a clock of its own: who is sent when, and what becomes of those that cannot be."""

from __future__ import annotations

from dataclasses import dataclass, field

from tri_serve.load.records import Phase
from tri_serve.load.schedule import Arrival
from tri_serve.load.swarm.dispatcher import LATEST_NS, Dispatcher

MS = 1_000_000
START = 1_000 * MS


@dataclass
class World:
    """A clock that moves only when the dispatcher sleeps, or when a request blocks the loop."""

    now: int = 0
    open: int = 0
    blocked: dict[int, int] = field(default_factory=dict)
    """By index: ns for which beginning with it holds up everything."""
    sent: list[tuple[int, int, int]] = field(default_factory=list)
    dropped: list[tuple[int, str]] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        # A turn of the loop without sleep takes time too.
        self.now += max(round(seconds * 1e9), 10_000)

    def send(self, arrival: Arrival, due: int) -> None:
        self.sent.append((arrival.index, due, self.now))
        self.open += 1
        self.now += self.blocked.get(arrival.index, 0)

    def run(self, times: list[float], most: int = 1_000) -> None:
        dispatcher = Dispatcher(
            self.send,
            lambda arrival, due, why: self.dropped.append((arrival.index, why)),
            lambda: self.open,
            most,
            clock=lambda: self.now,
            sleep=self.sleep,
        )
        dispatcher.run([Arrival(index, at, Phase.WINDOW) for index, at in enumerate(times)], START)


def test_each_request_is_sent_when_it_is_due_and_never_before() -> None:
    world = World()
    world.run([0.0, 0.01, 0.0105, 2.0])
    assert [index for index, _, _ in world.sent] == [0, 1, 2, 3]
    for _, due, at in world.sent:
        assert 0 <= at - due <= 20_000


def test_requests_do_not_wait_for_the_answers_of_others() -> None:
    world = World()
    world.run([0.001 * number for number in range(100)])
    assert len(world.sent) == 100
    assert world.open == 100  # none has been answered


def test_what_was_held_up_is_sent_late_and_keeps_its_due_time() -> None:
    world = World(blocked={0: 300 * MS})
    world.run([0.0, 0.1, 0.2])
    assert [(index, due - START) for index, due, _ in world.sent] == [(0, 0), (1, 100 * MS), (2, 200 * MS)]
    assert world.sent[1][2] - world.sent[1][1] == 200 * MS


def test_beyond_the_most_open_requests_are_dropped_with_the_reason() -> None:
    world = World()
    world.run([0.0, 0.1, 0.2], most=2)
    assert [index for index, _, _ in world.sent] == [0, 1]
    assert world.dropped == [(2, "2 requests of this process were open, its share of most_open")]


def test_a_request_whose_time_has_long_passed_is_dropped_and_not_sent_in_a_burst() -> None:
    world = World(blocked={0: LATEST_NS + 500 * MS})
    world.run([0.0, 0.1, 0.6, 2.0])
    assert [index for index, _, _ in world.sent] == [0, 2, 3]
    assert world.dropped == [(1, "its time had passed by 1.4 s")]
