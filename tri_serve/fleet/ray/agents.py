"""The Serve deployments: each replica of one is an agent that owns one child program.

Serve places an agent, looks whether it is well, and makes another when it dies. Inside, an agent runs the same
``Replica`` or ``GatewayProcess`` as the supervisor without Ray: Ray is never in engine or gateway. A dead engine
is replaced without Ray having to notice; an agent that dies takes its child along (see process/guard.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve._private import replica

from tri_serve.errors import TriServeError
from tri_serve.fleet.gateway_process import GatewayProcess
from tri_serve.fleet.order import EngineOrder
from tri_serve.fleet.own_children import OwnReplica
from tri_serve.fleet.parts import Address
from tri_serve.fleet.ray.head import HOST
from tri_serve.fleet.ray.messages import (
    AgentSettings,
    EngineNews,
    GatewayNews,
    GatewayOrder,
    KeptOrder,
    digest,
    roster_digest,
)
from tri_serve.fleet.release import LOG_BYTES, ReleasePaths
from tri_serve.fleet.shared_listener import take_listener
from tri_serve.fleet.state import ErrorState, write_private
from tri_serve.gateway.config import ReplicaAddress
from tri_serve.places import state_dir
from tri_serve.process import logs
from tri_serve.process.ports import bind_listener

log = logging.getLogger("tri_serve.fleet")

_ROTATE_SECONDS = 10.0
_ROSTER_SECONDS = 5.0
"""A new gateway agent waits so long for the supervisor, which may be gone, to say who is in the fleet."""


def agent_paths(settings: AgentSettings, node: str) -> ReleasePaths:
    """Where the agent keeps logs and sockets. Two nodes may share a home folder."""
    if settings.root is not None:
        return ReleasePaths(Path(settings.root))
    return ReleasePaths(state_dir() / "nodes" / f"{settings.release}-{settings.identity}" / node)


def stay_on_loopback() -> None:
    """Have Serve open this process's port for calls between deployments on the loopback interface alone.

    Serve has no setting for it: each replica listens on all addresses. Called while Serve makes the agent, which is
    before it opens the port. Nothing of ours uses the port, and Ray asks for its token there all the same.
    """
    opens: Callable[[Any, str], int] = vars(replica)["add_port_to_grpc_server"]

    def on_loopback(server: Any, address: str) -> int:
        return opens(server, f"{HOST}:{address.rpartition(':')[2]}")

    vars(replica)["add_port_to_grpc_server"] = on_loopback


class Agent:
    """What both kinds have in common: a place for logs, and news for who waits for them."""

    _owns = False
    """Whether there is something to be stopped when Serve ends this agent."""

    def __init__(self, settings: AgentSettings) -> None:
        self.settings = settings
        self.node = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        self.paths = agent_paths(settings, self.node)
        self.paths.create()
        self.instance = secrets.token_hex(6)
        self.version = 0
        self._news = asyncio.Event()
        if settings.root is not None:
            stay_on_loopback()
        if not settings.keeps_threads:
            os.environ.pop("OMP_NUM_THREADS", None)
        # A supervisor on the same machine does this for all logs; on another node nobody else would.
        self._rotation = (
            asyncio.get_running_loop().create_task(self._rotate()) if settings.root is None else None
        )

    def changed(self) -> None:
        """Wake those who wait for news."""
        self.version += 1
        self._news.set()
        self._news = asyncio.Event()

    async def news(self, seen: int, within: float) -> None:
        """Until there is something that ``seen`` does not include, at most ``within`` seconds."""
        if self.version == seen:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), within)

    async def stop(self) -> None:
        """Stop what is kept; running requests get their time. Once done, there is nothing left to do."""
        raise NotImplementedError

    def __del__(self) -> Coroutine[Any, Any, None] | None:
        # Serve calls this when it takes an agent away, and awaits what it gives; Python calls it again at the end.
        if not self._owns:
            return None
        self._owns = False
        return self.stop()

    async def _rotate(self) -> None:
        while True:
            await asyncio.sleep(_ROTATE_SECONDS)
            with contextlib.suppress(OSError):
                await asyncio.to_thread(logs.rotate, self.paths.log(self.settings.name), LOG_BYTES)


class EngineAgent(Agent):
    """Keeps one engine."""

    def __init__(self, settings: str, order: str) -> None:
        super().__init__(AgentSettings.model_validate_json(settings))
        wanted = EngineOrder.model_validate_json(order)
        self._digest = digest(wanted)
        self._replica = OwnReplica(
            self.settings.name,
            wanted,
            paths=self.paths,
            on_change=self.changed,
            node=self.node,
            address=self.node,
        )
        self._replica.begin()
        self._owns = True

    async def follow(self, order: str) -> None:
        """Another order: another engine. The same one again changes nothing."""
        wanted = EngineOrder.model_validate_json(order)
        if digest(wanted) != self._digest:
            self._digest = digest(wanted)
            self._replica.renew(wanted)

    async def changes(self, seen: int, within: float) -> dict[str, Any]:
        """News of the replica, as soon as there are any."""
        await self.news(seen, within)
        error = self._replica.error
        return EngineNews(
            version=self.version,
            instance=self.instance,
            digest=self._digest,
            again=self._replica.order.again,
            state=self._replica.state(),
            error=ErrorState.of(error) if error else None,
        ).model_dump(mode="json")

    async def stop(self) -> None:
        """Stop the engine; it may finish what it has for its shutdown timeout."""
        self._owns = False
        await self._replica.stop()


class GatewayAgent(Agent):
    """Keeps one gateway."""

    def __init__(self, settings: str, order: str) -> None:
        super().__init__(AgentSettings.model_validate_json(settings))
        given = GatewayOrder.model_validate_json(order)
        self._given = digest(given)
        self._order = self._kept() or given
        self._roster: tuple[ReplicaAddress, ...] | None = None
        self._heard = asyncio.Event()
        """A supervisor has said who is in the fleet."""
        self._told = asyncio.Event()
        """And the order is the one that it wants."""
        self._following = asyncio.Lock()
        self._gateway = GatewayProcess(
            self.paths,
            self._listener(self._order),
            self._order.config.model_copy(update={"admin_socket": self.paths.admin_socket(0)}),
            on_change=self.changed,
            name=self.settings.name,
            node=self.node,
            address=self._address(self._order),
        )
        self._beginning = asyncio.get_running_loop().create_task(self._begin())
        self._owns = True

    async def _begin(self) -> None:
        """Begin when roster and order are those of now.

        A gateway that knows nobody yet would refuse those who have waited, and one with an earlier order may let in
        whose key was disabled since.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._heard.wait(), _ROSTER_SECONDS)
        if self._heard.is_set():
            await self._told.wait()
        if self._owns:
            self._gateway.begin()

    def _bound(self, order: GatewayOrder) -> Address:
        return (self.node if order.host == "node" else order.host), order.port

    def _address(self, order: GatewayOrder) -> Address | None:
        """What clients are told; None where the supervisor says it."""
        if self.settings.listener_socket is not None:
            return None
        everywhere = order.host in ("node", "0.0.0.0", "::")  # noqa: S104 -- compared
        return (self.node if everywhere else order.host), order.port

    def _listener(self, order: GatewayOrder) -> socket.socket:
        if self.settings.listener_socket is not None:
            return take_listener(self.settings.listener_socket)
        return bind_listener(*self._bound(order))

    @property
    def _is_closed(self) -> bool:
        return self._gateway.listener.fileno() < 0

    @property
    def _followed(self) -> str:
        return "" if self._is_closed else digest(self._order)

    def _kept(self) -> GatewayOrder | None:
        """What an earlier agent of the same place followed last, if that was made with the same order as this."""
        if self.settings.listener_socket is not None:
            return None
        try:
            kept = KeptOrder.model_validate_json(self.paths.gateway_order.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s: %s", self.paths.gateway_order, error)
            return None
        return kept.order if kept.given == self._given else None

    def _keep(self) -> None:
        """Where the supervisor hands the socket out, agents die with it."""
        if self.settings.listener_socket is not None:
            return
        kept = KeptOrder(given=self._given, order=self._order)
        try:
            write_private(self.paths.gateway_order, kept.model_dump_json())
        except OSError as error:  # the supervisor, if it lives, tells the next agent
            log.warning("cannot write %s: %s", self.paths.gateway_order, error)

    async def changes(self, seen: int, within: float) -> dict[str, Any]:
        """News of the gateway, as soon as there are any."""
        await self.news(seen, within)
        error = self._gateway.error
        return GatewayNews(
            version=self.version,
            instance=self.instance,
            digest=self._followed,
            roster_digest="" if self._roster is None else roster_digest(self._roster),
            state=self._gateway.state(None),
            error=ErrorState.of(error) if error else None,
        ).model_dump(mode="json")

    async def status(self) -> dict[str, Any] | None:
        """What the gateway process says of itself."""
        return await self._gateway.status()

    async def set_roster(self, roster: list[dict[str, Any]], within: float, order: str) -> None:
        """Who may be sent requests; returns when the gateway process knows, or after ``within`` seconds.

        ``order``: digest of the one that is wanted now.
        """
        self._roster = tuple(ReplicaAddress.model_validate(each) for each in roster)
        self._gateway.set_roster(self._roster)
        self._heard.set()
        if order == self._followed:
            self._told.set()
        await self._gateway.roster_told(within=within)

    async def end_streams(self, replica: str) -> None:
        """See GatewayProcess."""
        await self._gateway.end_streams(replica)

    async def follow(self, order: str) -> dict[str, Any] | None:
        """Put a process with another configuration (and socket) in place of the present one; its error, if any."""
        wanted = GatewayOrder.model_validate_json(order)
        if not self._beginning.done():  # its first process should know the engines, too
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._heard.wait(), _ROSTER_SECONDS)
        async with self._following:
            if digest(wanted) != self._followed:
                try:
                    await self._change_to(wanted)
                except TriServeError as error:
                    return ErrorState.of(error).model_dump()
                self._order = wanted
                self._keep()
                self.changed()
        if self._heard.is_set():
            self._told.set()
        return None

    async def _change_to(self, wanted: GatewayOrder) -> None:
        gateway, known = self._gateway, self._order
        config = wanted.config.model_copy(update={"admin_socket": self.paths.admin_socket(0)})
        address = self._address(wanted)
        own = self.settings.listener_socket is None
        if own and wanted.port == known.port and self._bound(wanted) != self._bound(known):
            await gateway.close_listener()  # the two addresses may exclude each other
            try:
                await gateway.replace(config, self._listener(wanted), address=address)
            except TriServeError:
                gateway.reopen(self._listener(known))
                raise
            return
        another = (
            self._bound(wanted) != self._bound(known) if own else wanted.socket_number != known.socket_number
        )
        listener = self._listener(wanted) if another or self._is_closed else None
        await gateway.replace(config, listener, address=address)

    async def close_listener(self) -> None:
        """See GatewayProcess."""
        await self._gateway.close_listener()

    async def renew(self) -> None:
        """Another process of the same configuration, also if it was given up."""
        async with self._following:
            self._gateway.restart()
            listener = self._listener(self._order) if self._is_closed else None
            await self._gateway.replace(self._gateway.config, listener)

    async def stop(self) -> None:
        """Let running requests finish within the drain time, then end."""
        self._owns = False
        self._beginning.cancel()
        await self._gateway.stop()
        self.paths.gateway_order.unlink(missing_ok=True)


Engine: serve.Deployment = serve.deployment(name="Engine")(EngineAgent)
Gateway: serve.Deployment = serve.deployment(name="Gateway")(GatewayAgent)
