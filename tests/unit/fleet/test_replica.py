"""One replica over the lives of its engines, with engines that only pretend."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tri_serve.errors import EngineStartError, LaunchError
from tri_serve.fleet.backoff import RestartBackoff
from tri_serve.fleet.replica import MadeEngine, Replica
from tri_serve.fleet.state import ReplicaPhase


class PretendEngine:
    """Starts at once (or fails to), and dies when told."""

    def __init__(self, *, fails: bool = False) -> None:
        self.state = "starting"
        self.pid: int | None = 1
        self.phase_seconds = {"load": 1.0}
        self.kv_cache_tokens: int | None = None
        self.linear_kernel: str | None = None
        self.core_pids: tuple[int, ...] = ()
        self.dead = asyncio.Event()
        self.stops = 0
        self._fails = fails

    async def start(self) -> None:
        if self._fails:
            raise EngineStartError("no memory", log_tail=("last words",))

    async def wait_dead(self) -> str:
        await self.dead.wait()
        return "killed by SIGKILL"

    async def stop(self) -> None:
        self.stops += 1


class Place:
    """A replica, its engines so far, and every phase it went through."""

    def __init__(self, *outcomes: bool, limit: int = 5) -> None:
        self.engines: list[PretendEngine] = []
        self.phases: list[ReplicaPhase] = []
        self.faults: list[Exception] = []
        self._outcomes = list(outcomes)
        self.replica = Replica(
            "replica-0",
            self._make,
            log_file=Path("/log"),
            on_change=self._note,
            backoff=RestartBackoff(limit=limit, first=0.001, longest=0.001),
        )

    async def _make(
        self, _name: str, _on_change: Callable[[Any], None], earlier_port: int | None
    ) -> MadeEngine:
        if self.faults:
            raise self.faults.pop()
        fails = self._outcomes.pop(0) if self._outcomes else False
        self.engines.append(PretendEngine(fails=fails))
        return MadeEngine(self.engines[-1], "127.0.0.1", earlier_port or 1000, "cpu")

    def _note(self) -> None:
        phase = self.replica.phase
        if not self.phases or self.phases[-1] is not phase:
            self.phases.append(phase)

    async def until(self, phase: ReplicaPhase, lives: int = 1) -> None:
        async with asyncio.timeout(5):
            while self.replica.phase is not phase or self.replica.lives < lives:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await scenario()

    asyncio.run(run())


def test_a_started_engine_makes_the_replica_ready() -> None:
    async def scenario() -> None:
        place = Place()
        place.replica.begin()
        await place.until(ReplicaPhase.READY)
        state = place.replica.state()
        assert (state.port, state.pid, state.restarts) == (1000, 1, 0)
        await place.replica.stop()
        assert place.phases == ["starting", "ready", "draining", "stopped"]
        assert place.engines[0].stops == 1

    play(scenario)


def test_a_dead_engine_is_stopped_and_another_started_on_the_same_port() -> None:
    async def scenario() -> None:
        place = Place()
        place.replica.begin()
        await place.until(ReplicaPhase.READY)
        place.engines[0].dead.set()
        await place.until(ReplicaPhase.READY, lives=2)
        state = place.replica.state()
        assert (state.port, state.restarts, place.engines[0].stops) == (1000, 1, 1)
        assert state.error == "replica-0: the engine died: killed by SIGKILL"
        await place.replica.stop()

    play(scenario)


def test_a_replica_leaves_the_roster_before_its_dead_engine_is_tidied_up() -> None:
    async def scenario() -> None:
        place = Place()
        place.replica.begin()
        await place.until(ReplicaPhase.READY)
        place.engines[0].dead.set()
        await place.until(ReplicaPhase.READY, lives=2)
        assert place.phases == ["starting", "ready", "draining", "waiting", "starting", "ready"]
        await place.replica.stop()

    play(scenario)


def test_a_crash_loop_ends_in_failed_with_the_reason_and_a_restart_tries_again() -> None:
    async def scenario() -> None:
        place = Place(True, True, True, limit=3)
        place.replica.begin()
        await place.until(ReplicaPhase.FAILED)
        assert len(place.engines) == 3
        assert place.replica.state().error == "no memory"
        await asyncio.sleep(0.02)
        assert len(place.engines) == 3  # not tried for ever
        place.replica.restart()
        await place.until(ReplicaPhase.READY, lives=4)
        await place.replica.stop()

    play(scenario)


def test_a_restart_drains_first_and_is_no_failure() -> None:
    async def scenario() -> None:
        place = Place()
        place.replica.begin()
        await place.until(ReplicaPhase.READY)
        place.replica.restart()
        await place.until(ReplicaPhase.READY, lives=2)
        assert (place.replica.restarts, place.engines[0].stops) == (0, 1)
        await place.replica.stop()

    play(scenario)


def test_stop_ends_a_replica_in_any_phase() -> None:
    async def scenario() -> None:
        place = Place(True, limit=1)
        place.replica.begin()
        await place.until(ReplicaPhase.FAILED)
        await place.replica.stop()
        await place.replica.stop()
        assert place.replica.phase is ReplicaPhase.STOPPED
        assert len(place.engines) == 1

    play(scenario)


def test_what_the_system_refuses_is_tried_again() -> None:
    async def scenario() -> None:
        place = Place()
        place.faults.append(OSError(24, "Too many open files"))
        place.replica.begin()
        await place.until(ReplicaPhase.READY)
        assert ReplicaPhase.WAITING in place.phases
        await place.replica.stop()

    asyncio.run(scenario())


def test_an_engine_that_cannot_even_be_made_has_had_its_life() -> None:
    """Whoever waits for the next engine has to see that there is none."""

    async def scenario() -> None:
        place = Place(limit=1)
        place.replica.begin()
        await place.until(ReplicaPhase.READY)
        place.faults.append(LaunchError("no such flag"))
        place.replica.restart()
        await place.until(ReplicaPhase.FAILED, lives=2)
        assert place.replica.state().error == "no such flag"
        await place.replica.stop()

    play(scenario)
