"""The agents of a fleet in Ray Serve: made, placed, asked, taken away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

from tri_serve.errors import FleetError
from tri_serve.fleet.ray.client import BridgeLostError
from tri_serve.fleet.ray.messages import AgentSettings
from tri_serve.fleet.release import ReleasePaths
from tri_serve.spec.models import Spec

log = logging.getLogger(__name__)

_POLL = 0.05
_DEPLOY_POLL = 0.3
_DEPLOY_SECONDS = 120.0
"""For an agent to run: 2 to 3 s on an idle machine; on a cluster it waits for a free GPU, which is to be said."""
_PLACED_SECONDS = 10.0
"""An agent that does not run by then may lack a place. One that has it is there within two; a place that another
has just left takes Ray some seconds to see, more on a busy machine."""
_ROOM_POLL = 3.0
_NEWS_WITHIN = 10.0
"""Seconds in which an agent that lives has answered: it does so every 3 s, and Serve looks every 5 s."""
_NEWS_SECONDS = 3.0
"""An agent answers at least so often."""
_SILENCES = 2
"""So many times in a row an agent may fail to, until it is given up."""


class Deployments(ABC):
    """What parts ask of Serve. One application a part: Serve would choose a victim among the replicas of one, and
    restarts none of them alone."""

    def __init__(self, spec: Spec, paths: ReleasePaths) -> None:
        self.spec = spec
        self.paths = paths
        self.private = spec.fleet.target == "local"
        self.cuda = False

    @property
    @abstractmethod
    def is_up(self) -> bool:
        """Whether Ray can be asked."""

    @property
    @abstractmethod
    def is_whole(self) -> bool:
        """Whether Ray lives and keeps its agents, be it that it cannot be asked just now."""

    @abstractmethod
    async def ask(self, command: str, **arguments: Any) -> Any:
        """Ask the bridge. Raises FleetError."""

    @property
    def identity(self) -> str:
        """Tells this release from others of the same name."""
        return ""

    def application(self, name: str) -> str:
        """Serve's name for a part of this release."""
        return f"tri-serve-{self.paths.release}-{name}"

    async def call(self, name: str, method: str, *arguments: Any, within: float | None = None) -> Any:
        """Call an agent, which has answered ``within`` seconds (None: as the bridge has it). Raises FleetError."""
        bound = {"within": within} if within is not None else {}
        return await self.ask(
            "call", name=self.application(name), method=method, arguments=arguments, **bound
        )

    async def news(self, name: str, seen: int) -> Any:
        """What an agent says that ``seen`` does not include. Raises FleetError, at once if it is known to be dead.

        One that says nothing is asked again before it is given up: on a machine whose cores are all taken, by an
        engine that starts, it can be late, while what it keeps serves as before. Whether an engine answers the
        gateways know better; a replica that is lost here is out of their roster.
        """
        for _ in range(_SILENCES):
            answer = await self.ask(
                "call",
                name=self.application(name),
                method="changes",
                arguments=(seen, _NEWS_SECONDS),
                within=_NEWS_WITHIN,
                may_be_silent=True,
            )
            if answer is not None:
                return answer
            log.warning("%s: its agent has said nothing for %g s", name, _NEWS_WITHIN)
        raise FleetError(f"its agent has said nothing for {_SILENCES * _NEWS_WITHIN:g} s")

    async def deploy(
        self, kind: Literal["engine", "gateway"], name: str, order: str, node: str | None = None
    ) -> bool:
        """Have the agent of a part; whether it had to be made. Raises FleetError."""
        engine = self.spec.engine
        timeouts = self.spec.gateway.timeouts
        here = self.private
        settings = AgentSettings(
            release=self.paths.release,
            identity=self.identity,
            name=name,
            root=str(self.paths.root) if here else None,
            listener_socket=str(self.listener_socket) if here and kind == "gateway" else None,
            keeps_threads="OMP_NUM_THREADS" in os.environ,
        )
        made = await self.ask(
            "deploy",
            kind=kind,
            name=self.application(name),
            order=order,
            settings=settings.model_dump_json(),
            needs=self._needs(kind, node),
            patience=timeouts.drain + engine.shutdown_timeout + 20.0,
        )
        return bool(made)

    def _needs(self, kind: str, node: str | None) -> dict[str, float]:
        """What Ray is to set aside for an agent, by Ray's names."""
        engine = self.spec.engine
        if kind == "gateway":
            return {f"node:{node}": 0.001} if node is not None else {}
        if self.cuda:
            return {"GPU": float(engine.tensor_parallel_size)}
        # On a cluster, engines without GPUs are spread by the cores that they compute on.
        return {} if self.private else {"CPU": float(engine.cpu_threads or 1)}

    async def deployed(
        self,
        kind: Literal["engine", "gateway"],
        name: str,
        node: str | None,
        waits: Callable[[str], None],
    ) -> None:
        """Until Serve says that the agent runs; ``waits`` is told why it cannot be placed.

        Raises FleetError with Serve's words if it gives up on it.
        """
        application = self.application(name)
        begun = time.monotonic()
        while True:
            found = (await self.ask("applications", prefix=application)).get(application)
            if found is not None and found["status"] == "RUNNING":
                return
            # On a cluster Serve looks for another node by itself; to delete it would take its whole stop time.
            given_up = ("DEPLOY_FAILED", "UNHEALTHY") if self.private else ("DEPLOY_FAILED",)
            if found is not None and found["status"] in given_up:
                await self.ask("delete", name=application, wait=True)
                raise FleetError(f"Ray Serve cannot start its agent: {found['message']}")
            if not self.private and time.monotonic() - begun > _PLACED_SECONDS:
                if found is None:
                    raise FleetError("Ray Serve does not know it any more")
                reason = await self.ask("room", name=application, needs=self._needs(kind, node))
                if reason is not None:
                    waits(reason)
                    await asyncio.sleep(_ROOM_POLL)
            if self.private and time.monotonic() - begun > _DEPLOY_SECONDS:
                words = found["message"] if found else "Serve does not know it"
                raise FleetError(f"Ray Serve did not start its agent within {_DEPLOY_SECONDS:g} s: {words}")
            await asyncio.sleep(_DEPLOY_POLL)

    async def end(self, name: str, within: float) -> None:
        """Have an agent stop what it keeps, for up to ``within`` seconds, and have it no more.

        A connection that is lost meanwhile is waited for: without an end, its program would stay. A Ray that died
        has taken it along.
        """
        while self.is_whole:
            try:
                await self.call(name, "stop", within=within)
            except BridgeLostError:
                await asyncio.sleep(_POLL)
                continue
            except FleetError as error:  # it was not deployed yet, or has just died
                log.info("%s: %s", name, error)
            await self.delete(name)
            return

    async def delete(self, name: str) -> None:
        """Have the agent no more."""
        with contextlib.suppress(FleetError):
            # A private Ray ends as a whole; on a cluster nothing of ours may stay.
            await self.ask("delete", name=self.application(name), wait=not self.private)

    @property
    def listener_socket(self) -> Any:
        """Where the gateway's agent gets its listening socket."""
        return self.paths.sockets / "listener.sock"
