"""How long one request may wait in all, and how many may."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tri_serve.gateway.config import ReplicaAddress
from tri_serve.gateway.ledger import Ledger, RosterItem
from tri_serve.gateway.metrics import WorkerMetrics
from tri_serve.gateway.waiting import WaitingRoom


class Clock:
    """In place of the loop."""

    now = 100.0

    def time(self) -> float:
        return self.now


class Asked:
    """In place of an exchange for which no replica comes."""

    def __init__(self, room: WaitingRoom) -> None:
        self.waited = 0.0
        self.refused = False
        self._room = room

    def ask_again(self) -> bool:
        return False

    def waited_in_vain(self) -> None:
        self.refused = True
        self._room.leave(cast("Any", self), "refused")

    def take(self) -> bool:
        return self._room.take(cast("Any", self))

    def send(self) -> None:
        self._room.leave(cast("Any", self), "sent")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def room(clock: Clock) -> WaitingRoom:
    ledger = Ledger(None)
    ledger.update([RosterItem(ReplicaAddress(name="a", host="127.0.0.1", port=9), ready=False)], 0.0)
    return WaitingRoom(cast("Any", clock), ledger, WorkerMetrics(), seconds=5.0, places=2)


def test_a_request_that_waits_again_has_only_the_time_that_is_left(clock: Clock, room: WaitingRoom) -> None:
    asked = Asked(room)
    assert asked.take()
    clock.now += 3
    asked.send()
    clock.now += 60  # its engine's time, not the waiting room's
    assert asked.take()
    clock.now += 1.5
    room.look()
    assert not asked.refused
    clock.now += 1
    room.look()
    assert asked.refused
    assert not asked.take()


def test_no_more_wait_than_there_are_places(room: WaitingRoom) -> None:
    first, second, third = Asked(room), Asked(room), Asked(room)
    assert first.take()
    assert second.take()
    assert not third.take()
    first.send()
    assert third.take()
    assert len(room) == 2
