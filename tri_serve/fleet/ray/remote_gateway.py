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
from tri_serve.fleet.parts import Address
from tri_serve.fleet.ray.client import BridgeLostError
from tri_serve.fleet.ray.messages import GatewayNews, GatewayOrder, digest, roster_digest
from tri_serve.fleet.ray.remote_part import AGAIN_SECONDS, RemotePart, understood
from tri_serve.fleet.shared_listener import SharedListener
from tri_serve.fleet.state import ErrorState, GatewayState
from tri_serve.gateway.config import GatewayConfig, ReplicaAddress

if TYPE_CHECKING:
    from tri_serve.fleet.ray.runtime import RayRuntime

log = logging.getLogger(__name__)

_STATUS_SECONDS = 3.0
_TELL_SECONDS = 5.0
_REFUSED_SECONDS = 10.0
"""After which an agent that could not follow its order is told it again: a port may be free by then."""
_BEYOND_DRAIN = 60.0
"""Seconds past its drain time for a gateway process that does not end, and for one that was just starting."""


def _another_socket(order: GatewayOrder, number: int | None = None) -> GatewayOrder:
    """The same order with the socket that is shared now; ``number``: of the last one, if it is not the order's."""
    last = order.socket_number if number is None else number
    return order.model_copy(update={"socket_number": last + 1})


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
        self._gone = asyncio.Event()
        """Set unless its agent has answered, and was not lost since."""
        self._gone.set()
        self._refused: TriServeError | None = None
        """Why the agent goes on with an earlier order."""
        self._refused_until = 0.0
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
    def port(self) -> int:
        """Where it is to listen."""
        return self._order.port

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
        if self.phase != "running":  # it has no streams, and Serve would keep the call for an agent to come
            return
        with contextlib.suppress(FleetError):  # the agent has just died, and its gateway's streams with it
            await self._runtime.call(self.name, "end_streams", replica, within=_TELL_SECONDS)

    async def replace(
        self,
        config: GatewayConfig,
        listener: socket.socket | None = None,
        *,
        address: Address | None = None,
    ) -> None:
        """Put a process with ``config`` (and another socket, or address) in place of the running one.

        An agent that is away is told when it is back. One that says why it cannot goes on as before. What one that
        is lost meanwhile has done is not known: it is to have the new order, but not another socket.
        """
        async with self._swap:
            before = self._order
            host, port = address or (before.host, before.port)
            self._order = before.model_copy(update={"config": config, "host": host, "port": port})
            if listener is None or self._shared is None:
                await self._follow(before)
                return
            shared, old = self._shared, self._shared.listener
            shared.listener = listener
            self._order = _another_socket(self._order)
            try:
                await self._follow(before)
            except TriServeError:
                shared.listener = old
                listener.close()
                if self._order is not before:  # whichever of the two it has, it takes the old one for a third
                    self._order = _another_socket(before, self._order.socket_number)
                raise
            old.close()

    async def _follow(self, before: GatewayOrder) -> None:
        """Have the agent follow the order in place of ``before``. Raises what keeps it from that."""
        self._refused = None
        if self._gone.is_set():
            log.info("%s: it is told when it is back", self.name)
            return
        if digest(self._order) == digest(before):  # asked to replace the process nevertheless
            await self._ask("renew")
        elif (refusal := await self._refusal()) is not None:
            self._order = before
            raise refusal
        # The news of it are on their way.
        self._state = self._state.model_copy(update={"phase": "running"})

    async def _refusal(self) -> TriServeError | None:
        """Tell the agent the order; why it goes on with another one, if it does. Raises FleetError."""
        error = await self._ask("follow", self._order.model_dump_json())
        return None if error is None else as_exception(understood(ErrorState, error))

    async def _ask(self, method: str, *arguments: Any) -> Any:
        """Ask the agent, and again if the way to it was lost meanwhile. Raises FleetError, soon if it is lost."""
        while True:
            call = asyncio.ensure_future(
                self._runtime.call(self.name, method, *arguments, within=self._patience)
            )
            gone = asyncio.ensure_future(self._gone.wait())
            try:
                await asyncio.wait((call, gone), return_when=asyncio.FIRST_COMPLETED)
                if not call.done():
                    raise FleetError(f"{self.name} was lost meanwhile: {self._state.error}")
                return call.result()
            except BridgeLostError:
                if not self._runtime.is_whole:
                    raise
                await asyncio.sleep(AGAIN_SECONDS)
            finally:
                for task in (call, gone):
                    task.cancel()
                await asyncio.gather(call, gone, return_exceptions=True)

    async def close_listener(self) -> None:
        """Stop the process and close the socket, so that another can be bound on the same port."""
        async with self._swap:
            await self._ask("close_listener")
            if self._shared is not None:
                self._shared.listener.close()

    def reopen(self, listener: socket.socket) -> None:
        """Go on with ``listener`` in place of one that was closed; the agent takes it as soon as it can."""
        if self._shared is not None:
            self._shared.listener = listener
            self._order = _another_socket(self._order)
            self._refused_until = 0.0

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
            news = understood(GatewayNews, await self._runtime.news(self.name, seen))
            seen = news.version
            await self._check_goes_on(news.state.phase)
            await self._take(news)

    @property
    def _error_shown(self) -> str | None:
        return self._state.error

    def _lost(self, error: FleetError) -> None:
        self.error = GatewayStartError(f"{self.name}: {error}", hint=error.hint)
        log.warning("%s", self.error)
        self._gone.set()
        self._tell.set()  # the next agent waits for it before it begins
        since = self._state.since if self._state.phase == "waiting" else time.time()
        self._state = self._state.model_copy(
            update={"phase": "waiting", "since": since, "pid": None, "error": str(error)}
        )
        self._on_change()

    async def _take(self, news: GatewayNews) -> None:
        self._gone.clear()
        if news.roster_digest != roster_digest(self._roster):
            self._tell.set()
        if news.digest == digest(self._order):
            self._refused = None
        elif not self._swap.locked() and time.monotonic() >= self._refused_until:
            await self._repair()
        if news.state.phase != self._state.phase:
            log.info("%s: %s", self.name, news.state.phase)
        self.error = as_exception(news.error) if news.error else self._refused or self.error
        changed: dict[str, str | None] = {"url": news.state.url or self._state.url}
        if self._refused is not None:
            changed["error"] = f"it goes on with its earlier setting: {self._refused.message}"
        self._state = news.state.model_copy(update=changed)
        self._on_change()

    async def _repair(self) -> None:
        """The agent began anew, or was not there when it was told: it has another order than it should."""
        async with self._swap:
            self._refused = await self._refusal()
        if self._refused is not None:
            log.warning("%s: it goes on with its earlier setting: %s", self.name, self._refused)
            self._refused_until = time.monotonic() + _REFUSED_SECONDS

    async def _keep_telling(self) -> None:
        while True:
            await self._tell.wait()
            self._tell.clear()
            roster = self._roster
            body = [address.model_dump() for address in roster]
            try:
                order = digest(self._order)
                # Serve keeps it for an agent to come, which must not take an old order for the present one.
                await self._runtime.call(
                    self.name, "set_roster", body, _TELL_SECONDS, order, within=2 * _TELL_SECONDS
                )
            except FleetError as error:
                log.debug("%s: the roster could not be told: %s", self.name, error)
                await asyncio.sleep(AGAIN_SECONDS)
                self._tell.set()
                continue
            if roster == self._roster:
                self._told.set()
                self._on_change()
