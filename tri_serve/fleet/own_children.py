"""Engines and gateway as the supervisor's own children: the runtime of ``fleet.supervisor: process``."""

from __future__ import annotations

import platform
import secrets
import socket
from collections.abc import Callable, Sequence

from tri_serve.errors import FleetError
from tri_serve.fleet.gateway_process import GatewayProcess
from tri_serve.fleet.order import EngineOrder, Prepare, engine_maker
from tri_serve.fleet.prepare import prepare
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.replica import MakeEngine, Replica
from tri_serve.gateway.config import GatewayConfig
from tri_serve.spec.models import Spec


class OwnReplica(Replica):
    """A replica whose engines are made from an order, here."""

    def __init__(
        self,
        name: str,
        order: EngineOrder,
        *,
        paths: ReleasePaths,
        on_change: Callable[[], None],
        node: str = "",
        address: str = "",
        prepare_spec: Prepare = prepare,
    ) -> None:
        self.order = order
        self._log = paths.log(name)
        self._address = address
        self._prepare = prepare_spec
        super().__init__(
            name,
            self._maker(order),
            log_file=self._log,
            on_change=on_change,
            node=node,
        )

    def renew(self, order: EngineOrder) -> None:
        """Another engine, made from another order."""
        self.order = order
        self.make_engine = self._maker(order)
        self.restart()

    def _maker(self, order: EngineOrder) -> MakeEngine:
        return engine_maker(order, log=self._log, node=self._address, prepare_spec=self._prepare)


class OwnChildren:
    """The runtime without Ray."""

    def __init__(self, paths: ReleasePaths, *, prepare_spec: Prepare = prepare) -> None:
        self._paths = paths
        self._prepare = prepare_spec
        self.engine_key = secrets.token_urlsafe(32)
        self.takes_over = False

    async def start(self) -> None:
        """Nothing is needed."""

    async def check(self, spec: Spec, progress: Callable[[str], None]) -> None:
        """There are no other machines."""

    async def engines_begun(self) -> None:
        """All engines are new."""

    async def kill(self) -> None:
        """Everything is this machine's, and is swept there."""

    def replica(self, name: str, order: EngineOrder, on_change: Callable[[], None]) -> OwnReplica:
        """A replica that has not begun."""
        return OwnReplica(
            name,
            order,
            paths=self._paths,
            on_change=on_change,
            node=platform.node(),
            prepare_spec=self._prepare,
        )

    def gateways(
        self, config: GatewayConfig, listener: socket.socket | None, on_change: Callable[[], None]
    ) -> Sequence[GatewayProcess]:
        """The one gateway."""
        if listener is None:
            raise FleetError("a gateway on this machine needs its listening socket")
        return (GatewayProcess(self._paths, listener, config, on_change=on_change, node=platform.node()),)

    def state(self) -> None:
        """There is no Ray."""
        return

    async def stop(self) -> None:
        """Nothing is left to end."""
