from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import gevent
import pytest

from tri_serve.load.wire.turns import Turns, collect_seldom

WORKERS, PIECES, PIECE_NS = 100, 50, 20_000


@pytest.fixture
def collector() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def work(turns: Turns, inside: list[int], most: list[int]) -> None:
    with turns:
        inside.append(1)
        most.append(len(inside))
        for _ in turns.over(range(PIECES)):
            until = time.perf_counter_ns() + PIECE_NS
            while time.perf_counter_ns() < until:
                pass
        inside.pop()


def test_sockets_are_read_between_turns_however_many_wait() -> None:
    """A hundred milliseconds of work for a hundred greenlets: five hundred turns, and a pass of the loop for each.
    With ``gevent.sleep(0)`` in place of a timer the loop passes some tens of times."""
    passes: list[int] = []
    watcher = gevent.get_hub().loop.check()
    watcher.start(lambda: passes.append(time.perf_counter_ns()))
    turns, inside, most = Turns(), [], []  # type: ignore[var-annotated]
    try:
        gevent.joinall([gevent.spawn(work, turns, inside, most) for _ in range(WORKERS)], raise_error=True)
    finally:
        watcher.stop()
        watcher.close()
    assert len(passes) >= 250
    assert len(most) == WORKERS
    assert max(most) == 1


def test_a_greenlet_killed_at_work_lets_the_next_one_in() -> None:
    turns = Turns()
    endless = gevent.spawn(lambda: [None for _ in _held(turns)])
    waiting = gevent.spawn(lambda: list(_held(turns)))
    next_one = gevent.spawn(lambda: list(_counted(turns)))
    gevent.sleep(0.01)
    gevent.killall([endless, waiting])
    assert next_one.get(timeout=5) == [0, 1, 2]


def _held(turns: Turns) -> Iterator[int]:
    with turns:
        yield from turns.over(iter(int, 1))


def _counted(turns: Turns) -> Iterator[int]:
    with turns:
        yield from turns.over(range(3))


def test_whole_collections_become_seldom_and_the_young_ones_stay(collector: None) -> None:
    young, middle, old = gc.get_threshold()
    collect_seldom()
    assert gc.get_threshold()[:2] == (young, middle)
    assert gc.get_threshold()[2] >= 10 * old
    assert gc.get_freeze_count() > 0
