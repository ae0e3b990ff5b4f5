"""What a fleet is made of, whoever runs it: replicas, gateways, and the runtime that they live in."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tri_serve.errors import TriServeError
from tri_serve.fleet.order import EngineOrder
from tri_serve.fleet.state import GatewayState, RayState, ReplicaPhase, ReplicaState
from tri_serve.gateway.config import GatewayConfig, ReplicaAddress
from tri_serve.spec.models import Spec

Address = tuple[str, int]
"""Host and port."""


class ReplicaPart(Protocol):
    """One replica; ``on_change`` of whoever made it is called after every change."""

    name: str
    order: EngineOrder
    error: TriServeError | None

    @property
    def lives(self) -> int: ...
    @property
    def phase(self) -> ReplicaPhase: ...
    @property
    def ready(self) -> bool: ...
    def state(self) -> ReplicaState: ...
    def begin(self) -> None:
        """Start in the background."""

    def renew(self, order: EngineOrder) -> None:
        """Another engine, made from another order, in place of the present one; nothing runs there any more."""

    def restart(self) -> None:
        """Another engine of the same order."""

    async def stop(self) -> None:
        """Stop; returns when nothing of it is left."""


class GatewayPart(Protocol):
    """One gateway."""

    name: str
    error: TriServeError | None

    @property
    def config(self) -> GatewayConfig: ...
    @property
    def phase(self) -> str: ...
    def begin(self) -> None: ...
    def set_roster(self, roster: Sequence[ReplicaAddress]) -> None: ...
    async def roster_told(self, *, within: float = 5.0) -> None: ...
    async def wait_ready(self, *, within: float) -> bool: ...
    async def status(self) -> dict[str, Any] | None: ...
    def state(self, status: dict[str, Any] | None) -> GatewayState: ...
    async def end_streams(self, replica: str) -> None:
        """The drain deadline of a replica has come: what still runs there is ended or asked elsewhere."""

    async def replace(
        self,
        config: GatewayConfig,
        listener: socket.socket | None = None,
        *,
        address: Address | None = None,
    ) -> None:
        """Put a process with ``config`` in place of the running one; what fails leaves it as it was.

        ``listener``: another socket; ``address``: where it listens, or is to, where the gateway binds its own.
        """

    async def close_listener(self) -> None: ...
    def reopen(self, listener: socket.socket) -> None:
        """Go on with ``listener`` in place of one that was closed, as before that, whatever has failed since."""

    def restart(self) -> None: ...
    async def stop(self) -> None: ...


class Runtime(Protocol):
    """What the parts run in: the supervisor's own children, or Ray."""

    @property
    def engine_key(self) -> str:
        """What gateways present to engines; known once it is started."""

    @property
    def takes_over(self) -> bool:
        """Whether engines or gateways of an earlier life go on in this one."""

    async def start(self) -> None:
        """Ready to begin parts. Raises TriServeError."""

    async def check(self, spec: Spec, progress: Callable[[str], None]) -> None:
        """Look at what ``spec`` needs on other machines. Raises TriServeError."""

    async def engines_begun(self) -> None:
        """Every engine has begun; returns when gateways may be told who is there."""

    async def kill(self) -> None:
        """End every part on other machines at once. Raises FleetError."""

    def replica(self, name: str, order: EngineOrder, on_change: Callable[[], None]) -> ReplicaPart:
        """A replica that has not begun."""

    def gateways(
        self, config: GatewayConfig, listener: socket.socket | None, on_change: Callable[[], None]
    ) -> Sequence[GatewayPart]:
        """The gateways, not begun: one, or one for each node. ``listener``: the socket of the only one."""

    def state(self) -> RayState | None: ...
    async def stop(self) -> None:
        """End the runtime itself; its parts have been stopped before."""
