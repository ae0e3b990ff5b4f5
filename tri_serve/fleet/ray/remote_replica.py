"""A replica whose engine is kept by an agent in Ray: what is wanted goes there, what is comes back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from tri_serve.errors import EngineStartError, FleetError, TriServeError
from tri_serve.fleet.background import go_on
from tri_serve.fleet.control import as_exception
from tri_serve.fleet.order import EngineOrder
from tri_serve.fleet.ray.messages import EngineNews, digest
from tri_serve.fleet.ray.remote_part import RemotePart, understood
from tri_serve.fleet.state import ReplicaPhase, ReplicaState

if TYPE_CHECKING:
    from tri_serve.fleet.ray.runtime import RayRuntime

log = logging.getLogger(__name__)

_BEYOND_STOP = 60.0
"""Seconds past its shutdown timeout for an engine that does not end, and for one that was just being made."""


class RemoteReplica(RemotePart):
    """Keeps an agent on its order, and mirrors what it says."""

    def __init__(
        self, runtime: RayRuntime, name: str, order: EngineOrder, *, on_change: Callable[[], None]
    ) -> None:
        super().__init__(runtime, name, None, on_change)
        self.order = order
        self.error: TriServeError | None = None
        self._state = ReplicaState(
            name=name, phase=ReplicaPhase.STARTING, since=time.time(), log=str(runtime.paths.log(name))
        )
        self.kind: Literal["engine"] = "engine"
        self._instance = ""
        self._lives_before = 0
        """Lives of earlier agents; an agent counts its own."""
        self._restarts_before = 0
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def phase(self) -> ReplicaPhase:
        """Where the replica is in its life."""
        return self._state.phase

    @property
    def ready(self) -> bool:
        """Whether its engine may be sent requests."""
        return self._state.phase is ReplicaPhase.READY

    @property
    def heard(self) -> bool:
        """Whether its agent has said how it is."""
        return bool(self._instance)

    @property
    def lives(self) -> int:
        """Engines that were begun in this place so far."""
        return self._lives_before + self._state.lives

    def state(self) -> ReplicaState:
        """Everything that is known of it."""
        return self._state.model_copy(
            update={"restarts": self._restarts_before + self._state.restarts, "lives": self.lives}
        )

    def begin(self) -> None:
        """Start in the background."""
        self._task = go_on(self._live(), self.name)

    def renew(self, order: EngineOrder) -> None:
        """Another engine, made from another order."""
        self.order = order
        self._wanted.set()

    def restart(self) -> None:
        """Another engine of the same order."""
        self.renew(self.order.model_copy(update={"again": self.order.again + 1}))

    async def stop(self) -> None:
        """Stop; returns when nothing of it is left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._runtime.forget(self)
        await self._runtime.end(self.name, self.order.spec.engine.shutdown_timeout + _BEYOND_STOP)
        self._enter(ReplicaPhase.STOPPED)

    async def _deploy_and_follow(self) -> None:
        made = await self._runtime.deploy("engine", self.name, self.order.model_dump_json())
        if made and self._instance:
            self._lost(FleetError("Ray Serve had lost it; it is made again"))
        await self._runtime.deployed("engine", self.name, None, self._waits)
        await self._follow()

    async def _follow(self) -> None:
        seen = -1
        while True:
            self._wanted.clear()
            news = await self._news(seen)
            if news is None:  # another order has come
                await self._runtime.call(self.name, "follow", self.order.model_dump_json())
                continue
            seen = news.version
            await self._check_goes_on(news.state.phase)
            if not self._instance:
                self._adopt(news)
            if news.digest != digest(self.order):
                await self._runtime.call(self.name, "follow", self.order.model_dump_json())
                continue  # what it says is about an engine that goes
            self._take(news)

    def _adopt(self, news: EngineNews) -> None:
        """An engine that an earlier supervisor had restarted is no other engine for that."""
        same = self.order.model_copy(update={"again": news.again})
        if news.digest == digest(same):
            self.order = same

    async def _news(self, seen: int) -> EngineNews | None:
        """What the agent says next; None if the order changed meanwhile."""
        call = asyncio.ensure_future(self._runtime.news(self.name, seen))
        wanted = asyncio.ensure_future(self._wanted.wait())
        try:
            await asyncio.wait((call, wanted), return_when=asyncio.FIRST_COMPLETED)
            if call.done():
                return understood(EngineNews, call.result())
            return None
        finally:
            for task in (call, wanted):
                task.cancel()
            await asyncio.gather(call, wanted, return_exceptions=True)

    def _take(self, news: EngineNews) -> None:
        if self._instance and news.instance != self._instance:
            self._lives_before += self._state.lives
            self._restarts_before += self._state.restarts + 1
        self._instance = news.instance
        self.error = as_exception(news.error) if news.error else self.error
        if news.state.phase is not self._state.phase:
            log.info("%s: %s", self.name, news.state.phase)
        self._state = news.state
        self._on_change()

    @property
    def _error_shown(self) -> str | None:
        return self._state.error

    def _lost(self, error: FleetError) -> None:
        """Its agent does not answer: what it kept is gone, or will be replaced."""
        self.error = EngineStartError(f"{self.name}: {error}", hint=error.hint)
        log.warning("%s", self.error)
        self._state = self._state.model_copy(
            update={
                **dict.fromkeys(("pid", "host", "port", "kv_cache_tokens", "linear_kernel")),
                **dict.fromkeys(("in_flight", "running", "waiting", "tokens_per_second")),
                "core_pids": (),
                "error": str(error),
            }
        )
        self._enter(ReplicaPhase.WAITING)

    def _enter(self, phase: ReplicaPhase) -> None:
        if phase is not self._state.phase:
            self._state = self._state.model_copy(update={"phase": phase, "since": time.time()})
            log.info("%s: %s", self.name, phase)
        self._on_change()
