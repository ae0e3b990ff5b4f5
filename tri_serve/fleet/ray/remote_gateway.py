"""A gateway that is kept by an agent in Ray: what is wanted goes there, what is comes back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from tri_serve.errors import FleetError, GatewayStartError, TriServeError
from tri_serve.fleet.background import go_on
from tri_serve.fleet.control import as_exception
from tri_serve.fleet.gateway_process import with_status
from tri_serve.fleet.ray.messages import GatewayNews, GatewayOrder, digest, roster_digest
from tri_serve.fleet.ray.remote_part import AGAIN_SECONDS, NEWS_SECONDS, RemotePart
from tri_serve.fleet.shared_listener import SharedListener
from tri_serve.fleet.state import ErrorState, GatewayState
from tri_serve.gateway.config import GatewayConfig, ReplicaAddress

if TYPE_CHECKING:
    from tri_serve.fleet.ray.runtime import RayRuntime

log = logging.getLogger(__name__)

_STATUS_SECONDS = 3.0
_TELL_SECONDS = 5.0
_BEYOND_DRAIN = 60.0
"""Seconds past its drain time for a gateway process that does not end, and for one that was just starting."""


class RemoteGateway(RemotePart):
    """Keeps an agent on its order and roster, and mirrors what it says. Holds a local listener."""

    def __init__(
        self,
        runtime: RayRuntime,
        name: str,
        config: GatewayConfig,
        listener: socket.socket | None,
        *,
        host: str,
        port: int,
        on_change: Callable[[], None],
        node: str | None = None,
    ) -> None:
        super().__init__(runtime, name, node, on_change)
        self.error: TriServeError | None = None
        self._order = GatewayOrder(config=config, host=host, port=port)
        self.kind: Literal["gateway"] = "gateway"
        self._shared = SharedListener(runtime.listener_socket, listener) if listener is not None else None
        self._roster: tuple[ReplicaAddress, ...] = ()
        self._told = asyncio.Event()
        self._tell = asyncio.Event()
        self._state = GatewayState(
            name=name,
            phase="starting",
            since=time.time(),
            node=node or "",
            log=str(runtime.paths.log("gateway")),
        )
        self._swap = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def config(self) -> GatewayConfig:
        """What the gateway was last told."""
        return self._order.config

    @property
    def _patience(self) -> float:
        """Seconds in which its agent has put a process in place of another, or ended it."""
        return self.config.timeouts.drain + _BEYOND_DRAIN

    @property
    def phase(self) -> str:
        """Where the gateway is in its life."""
        return self._state.phase

    def begin(self) -> None:
        """Start in the background."""
        if self._shared is not None:
            self._shared.open()
        self._tasks = [
            go_on(self._live(), self.name),
            go_on(self._keep_telling(), f"{self.name} roster"),
        ]

    def set_roster(self, roster: Sequence[ReplicaAddress]) -> None:
        """Which engines may be sent requests."""
        if tuple(roster) != self._roster:
            self._roster = tuple(roster)
            self._told.clear()
            self._tell.set()

    async def roster_told(self, *, within: float = 5.0) -> None:
        """Until the gateway knows the roster, at most ``within`` seconds."""
        if self.phase != "running":
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._told.wait(), within)

    async def wait_ready(self, *, within: float) -> bool:
        """Until the gateway would pass a request on; False if it would not in time."""
        deadline = time.monotonic() + within
        while not ((await self.status()) or {}).get("ready"):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.1)
        return True

    async def status(self) -> dict[str, Any] | None:
        """What the gateway process says of itself; None if it does not answer."""
        if self.phase != "running":  # Serve would keep the question for an agent that is not there
            return None
        try:
            answer = await asyncio.wait_for(self._runtime.call(self.name, "status"), _STATUS_SECONDS)
        except (FleetError, TimeoutError):
            return None
        return answer if isinstance(answer, dict) else None

    def state(self, status: dict[str, Any] | None) -> GatewayState:
        """Everything that is known of it; ``status`` is its own answer."""
        return with_status(self._state, status)

    async def end_streams(self, replica: str) -> None:
        """The drain deadline of ``replica`` has come."""
        with contextlib.suppress(FleetError):  # the agent has just died, and its gateway's streams with it
            await self._runtime.call(self.name, "end_streams", replica)

    async def replace(self, config: GatewayConfig, listener: socket.socket | None = None) -> None:
        """Put a process with ``config`` (and another socket) in place of the running one; see GatewayProcess."""
        async with self._swap:
            before, old = self._order, self._shared.listener if self._shared else None
            order = before.model_copy(update={"config": config})
            if listener is not None and self._shared is not None:
                self._shared.listener = listener
                order = order.model_copy(update={"socket_number": before.socket_number + 1})
            elif digest(order) == digest(before):  # asked to replace the process nevertheless
                await self._runtime.call(self.name, "renew", within=self._patience)
                return
            try:
                error = await self._runtime.call(
                    self.name, "follow", order.model_dump_json(), within=self._patience
                )
                if error is not None:
                    raise as_exception(ErrorState.model_validate(error))
            except TriServeError:
                if listener is not None and self._shared is not None and old is not None:
                    self._shared.listener = old
                    listener.close()
                raise
            self._order = order
            if listener is not None and old is not None:
                old.close()

    async def close_listener(self) -> None:
        """Stop the process and close the socket, so that another can be bound on the same port."""
        async with self._swap:
            await self._runtime.call(self.name, "close_listener", within=self._patience)
            if self._shared is not None:
                self._shared.listener.close()

    def restart(self) -> None:
        """Forget the record of failures; ``replace`` follows."""

    async def stop(self) -> None:
        """Close the socket, let running requests finish within the drain time, end the process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._shared is not None:
            self._shared.listener.close()
            await self._shared.close()
        await self._runtime.end(self.name, self._patience)
        self._state = self._state.model_copy(update={"phase": "stopped"})

    async def _deploy_and_follow(self) -> None:
        await self._runtime.deploy("gateway", self.name, self._order.model_dump_json(), node=self.node)
        await self._runtime.deployed("gateway", self.name, self.node, self._waits)
        seen = -1
        while True:
            news = GatewayNews.model_validate(
                await self._runtime.call(self.name, "changes", seen, NEWS_SECONDS)
            )
            seen = news.version
            await self._take(news)

    @property
    def _error_shown(self) -> str | None:
        return self._state.error

    def _lost(self, error: FleetError) -> None:
        self.error = GatewayStartError(f"{self.name}: {error}", hint=error.hint)
        log.warning("%s", self.error)
        self._state = self._state.model_copy(update={"phase": "waiting", "pid": None, "error": str(error)})
        self._on_change()

    async def _take(self, news: GatewayNews) -> None:
        if news.digest != digest(self._order) and not self._swap.locked():  # an agent that began anew
            await self._runtime.call(self.name, "follow", self._order.model_dump_json())
        if news.roster_digest != roster_digest(self._roster):
            self._tell.set()
        if news.state.phase != self._state.phase:
            log.info("%s: %s", self.name, news.state.phase)
        self.error = as_exception(news.error) if news.error else self.error
        url = news.state.url or self._state.url
        self._state = news.state.model_copy(update={"url": url})
        self._on_change()

    async def _keep_telling(self) -> None:
        while True:
            await self._tell.wait()
            self._tell.clear()
            roster = self._roster
            body = [address.model_dump() for address in roster]
            try:
                await self._runtime.call(self.name, "set_roster", body, _TELL_SECONDS)
            except FleetError as error:
                log.debug("%s: the roster could not be told: %s", self.name, error)
                await asyncio.sleep(AGAIN_SECONDS)
                self._tell.set()
                continue
            if roster == self._roster:
                self._told.set()
                self._on_change()
