"""One replica: an engine that is started, watched, and started again when it dies."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tri_serve.errors import EngineStartError, ResourceError, TriServeError
from tri_serve.fleet.background import go_on
from tri_serve.fleet.backoff import RestartBackoff
from tri_serve.fleet.state import ReplicaPhase, ReplicaState

log = logging.getLogger(__name__)


class EngineLike(Protocol):
    """What a replica needs of an engine (see tri_serve.engine.engine.Engine)."""

    @property
    def state(self) -> str: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def phase_seconds(self) -> dict[str, float]: ...
    @property
    def kv_cache_tokens(self) -> int | None: ...
    @property
    def linear_kernel(self) -> str | None: ...
    @property
    def core_pids(self) -> tuple[int, ...]: ...
    async def start(self) -> None: ...
    async def wait_dead(self) -> str: ...
    async def stop(self) -> None: ...


@dataclass(frozen=True)
class MadeEngine:
    """An engine that has not been started yet, and where it will be."""

    engine: EngineLike
    host: str
    port: int
    device: str
    """``cpu``, or ``cuda:0,1``."""


MakeEngine = Callable[[str, Callable[[Any], None], int | None], Awaitable[MadeEngine]]
"""(replica's name, callback for changes, its last engine's port) → an engine."""


class Replica:
    """One place in the fleet. ``run`` keeps an engine in it until ``stop``."""

    def __init__(
        self,
        name: str,
        make_engine: MakeEngine,
        *,
        log_file: Path,
        on_change: Callable[[], None],
        node: str = "",
        backoff: RestartBackoff | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.make_engine = make_engine
        self.lives = 0
        """Engines that were begun in this place so far, also those that could not even be made."""
        self.restarts = 0
        self.error: TriServeError | None = None
        self._log_file = log_file
        self._on_change = on_change
        self._node = node
        self._backoff = backoff or RestartBackoff()
        self._clock = clock
        self._made: MadeEngine | None = None
        self._port: int | None = None
        self._earlier_seconds: float | None = None
        self._phase = ReplicaPhase.STARTING
        self._since = clock()
        self._retry: float | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def phase(self) -> ReplicaPhase:
        """Where the replica is in its life."""
        return self._phase

    @property
    def ready(self) -> bool:
        """Whether its engine may be sent requests."""
        return self._phase is ReplicaPhase.READY

    def state(self) -> ReplicaState:
        """Everything that is known of it."""
        made = self._made
        engine = made.engine if made else None
        return ReplicaState(
            name=self.name,
            phase=self._phase,
            since=self._since,
            node=self._node,
            device=made.device if made else None,
            pid=engine.pid if engine else None,
            core_pids=engine.core_pids if engine else (),
            host=made.host if made else None,
            port=made.port if made else None,
            lives=self.lives,
            restarts=self.restarts,
            phase_seconds=dict(engine.phase_seconds) if engine else {},
            earlier_seconds=self._earlier_seconds,
            kv_cache_tokens=engine.kv_cache_tokens if engine else None,
            linear_kernel=engine.linear_kernel if engine else None,
            error=self.error.message if self.error else None,
            retry=self._retry,
            log=str(self._log_file),
        )

    def begin(self) -> None:
        """Start in the background."""
        self._task = go_on(self._run(), self.name)

    def restart(self) -> None:
        """Stop the engine and start another, at once, whatever its record."""
        self._backoff.reset()
        self._wake.set()

    async def stop(self) -> None:
        """Stop; returns when nothing of the engine is left."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.shield(self._task)

    def _enter(self, phase: ReplicaPhase) -> None:
        if phase is not self._phase:
            self._phase = phase
            self._since = self._clock()
            log.info("%s: %s", self.name, phase)
        self._on_change()

    def _engine_changed(self, engine: EngineLike) -> None:
        # An engine calls itself ready a moment before start() returns; it is ready when that has.
        current = self._made.engine if self._made else None
        if engine is current and str(engine.state) in (ReplicaPhase.LOADING, ReplicaPhase.WARMING):
            self._enter(ReplicaPhase(str(engine.state)))

    async def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            ready_seconds = await self._one_life()
            if ready_seconds is None:  # ended because it was asked to
                continue
            delay = self._backoff.failed(ready_seconds)
            if delay is None:
                log.error("%s: given up after %d failures in a row", self.name, self._backoff.failures)
                self._enter(ReplicaPhase.FAILED)
            else:
                self._retry = self._clock() + delay
                self._enter(ReplicaPhase.WAITING)
            await self._first(self._wake.wait(), within=delay)
            self._retry = None
            self.restarts += 1
        self._enter(ReplicaPhase.STOPPED)

    async def _one_life(self) -> float | None:
        """One engine from start to end. Seconds of readiness if it failed, None if it was asked to end."""
        engine: EngineLike | None = None
        ready_at: float | None = None
        try:
            self.lives += 1  # whoever waits for this life has to see it fail, too
            self._enter(ReplicaPhase.STARTING)
            self._made = await self.make_engine(self.name, self._engine_changed, self._port)
            engine, self._port = self._made.engine, self._made.port
            if await self._first(engine.start(), self._wake.wait()) == 1:
                return None
            ready_at = self._clock()
            self._earlier_seconds = sum(engine.phase_seconds.values())
            self._enter(ReplicaPhase.READY)
            reasons: list[str] = []

            async def death() -> None:
                reasons.append(await engine.wait_dead())

            if await self._first(death(), self._wake.wait()) == 1:
                self._enter(ReplicaPhase.DRAINING)
                return None
            self.error = EngineStartError(f"{self.name}: the engine died: {reasons[0]}")
        except TriServeError as error:
            self.error = error
        except OSError as error:  # no descriptor, no process: another may be had later
            self.error = ResourceError(f"{self.name}: {error.strerror or error}")
        finally:
            if engine is not None:
                if self._phase is ReplicaPhase.READY:
                    self._enter(
                        ReplicaPhase.DRAINING
                    )  # out of the roster before the next engine is thought of
                await engine.stop()
            self._made = None
        log.warning("%s: %s", self.name, self.error)
        return 0.0 if ready_at is None else self._clock() - ready_at

    async def _first(self, *waits: Coroutine[Any, Any, Any], within: float | None = None) -> int:
        """Index of the one that ended first (-1: none in time); the others are cancelled. Raises its error."""
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        try:
            await asyncio.wait(tasks, timeout=within, return_when=asyncio.FIRST_COMPLETED)
            for index, task in enumerate(tasks):
                if task.done():
                    task.result()
                    return index
            return -1
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
