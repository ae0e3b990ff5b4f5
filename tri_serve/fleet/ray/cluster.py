"""The user's own Ray cluster as a fleet's runtime: checked first, taken over, left as it was found.

What is deployed there outlives a supervisor that dies, and one that cannot take it over: only a stop that was asked
for takes it away, and the first start of all if it fails. A node that joins later gets a gateway from the next
supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from tri_serve.errors import FleetError, UsageError
from tri_serve.fleet.background import go_on
from tri_serve.fleet.cluster_record import (
    ClusterRecord,
    application_prefix,
    forget_record,
    keep_record,
    read_record,
)
from tri_serve.fleet.ray.client import BridgeLostError, ask_bridge
from tri_serve.fleet.ray.runtime import RayRuntime
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.state import NodeState, RayState
from tri_serve.spec.models import Spec

log = logging.getLogger(__name__)

_LOOK_SECONDS = 3.0
_ANSWER_SECONDS = 8.0
_SILENT_SECONDS = 15.0
"""A head that does not answer for so long is lost; Ray's nodes themselves wait for a minute."""
_HEARD_SECONDS = 15.0
_CONNECTED_AGAIN = 15.0
"""A new connection in place of one that was lost takes 2 s, more on a busy machine."""
_POLL = 0.1
_BEYOND_STOP = 30.0
"""What Serve needs on top of a part's own time to stop."""


class ClusterRuntime(RayRuntime):
    """The cluster at ``fleet.ray.address``."""

    def __init__(self, spec: Spec, paths: Any) -> None:
        super().__init__(spec, paths)
        self._record: ClusterRecord | None = None
        self._found: frozenset[str] = frozenset()
        self._doing: str | None = None
        self._clearing: asyncio.Task[None] | None = None
        self._killed = False
        self._killing: asyncio.Task[None] | None = None
        self._left: set[str] = set()
        """Parts that could not be ended, since the cluster was lost."""

    @property
    def engine_key(self) -> str:
        """The same in each life of the release."""
        assert self._record is not None, "kept by start()"
        return self._record.engine_key

    @property
    def identity(self) -> str:
        """Tells this release from others of the same name on the cluster."""
        assert self._record is not None, "kept by start()"
        return self._record.identity

    @property
    def takes_over(self) -> bool:
        """Whether an earlier supervisor's engines and gateways were found."""
        return bool(self._found)

    def application(self, name: str) -> str:
        """Serve's name for a part of this release."""
        return application_prefix(self.paths, self.identity) + name

    def state(self) -> RayState:
        """How the cluster is."""
        return (
            super()
            .state()
            .model_copy(
                update={
                    "doing": self._doing,
                    "members": tuple(NodeState.model_validate(node) for node in self._nodes),
                }
            )
        )

    async def start(self) -> None:
        """Connected to, every node checked. Raises FleetError, UsageError with all that is missing."""
        timeouts, engine = self.spec.gateway.timeouts, self.spec.engine
        patience = timeouts.drain + engine.shutdown_timeout + _BEYOND_STOP
        first = False
        try:
            await self._open()
            assert self._address is not None, "given, or found"
            first = read_record(self.paths) is None
            self._record = keep_record(self.paths, self._address, patience)
            prefix = self.application("")
            found = await self.ask("applications", prefix=prefix)
            self._found = frozenset(name.removeprefix(prefix) for name in found)
            if self.takes_over:
                log.info("found what an earlier supervisor had started: %s", ", ".join(sorted(self._found)))
            await self._check_first()
            self.gateway_nodes()  # said while what is found can still be left as it is
        except BaseException:
            if first and not self._found:  # otherwise something may run there
                forget_record(self.paths)
            await self._close()
            raise
        self._task = go_on(self._watch(), "ray")

    async def _check_first(self) -> None:
        try:
            await self.check(self.spec, log.info)
        except (FleetError, UsageError) as error:
            if not self.takes_over:
                raise
            log.warning("%s", error)  # what runs there goes on nevertheless

    async def check(self, spec: Spec, progress: Callable[[str], None]) -> None:
        """Look on every node for what ``spec`` needs there. Raises FleetError, UsageError."""
        self._nodes = await self.ask("nodes")
        chosen = chosen_nodes(spec.fleet.ray.gateway_nodes, self._nodes)
        ports = {name.rpartition("@")[2]: applied_port(self.paths) for name in self._found}
        ports |= {str(part.node): part.port for part in self._parts if part.kind == "gateway"}
        occupied = [node for node in chosen if ports.get(node) == spec.gateway.port]

        def note(line: str) -> None:
            self._doing = line
            progress(line)
            self._on_change()

        try:
            note(f"checking {len(self._nodes)} node{'s' * (len(self._nodes) != 1)}")
            problems = await ask_bridge(
                self._socket,
                "check",
                progress=note,
                spec=spec.model_dump_json(),
                gateway_nodes=chosen,
                occupied=occupied,
            )
        finally:
            self._doing = None
        if problems:
            count = "one thing is" if len(problems) == 1 else f"{len(problems)} things are"
            raise FleetError(
                f"the cluster at {self._address} is not ready for this release; {count} missing:"
                + "".join(f"\n  - {problem}" for problem in problems)
            )

    def gateway_nodes(self) -> list[str]:
        """Addresses of the nodes that get a gateway. Raises UsageError."""
        found = [name.rpartition("@")[2] for name in sorted(self._found) if name.startswith("gateway@")]
        return gateway_places(self.spec.fleet.ray.gateway_nodes, self._nodes, found)

    async def engines_begun(self) -> None:
        """Of what was taken over, hear of every engine before gateways are told who is there."""
        known = [part for part in self._parts if part.name in self._found]
        deadline = time.monotonic() + _HEARD_SECONDS
        while not all(part.heard for part in known if part.kind == "engine"):
            if time.monotonic() > deadline:
                log.warning("not every engine that was found has answered yet")
                break
            await asyncio.sleep(0.05)
        left = sorted(self._found - {part.name for part in self._parts})
        if left:
            log.info("no longer wanted: %s", ", ".join(left))
            self._clearing = asyncio.create_task(self._clear(left))

    async def _clear(self, parts: list[str]) -> None:
        with contextlib.suppress(FleetError):
            await self.ask("clear", prefix=self.application(""), patience=self.patience, parts=parts)

    @property
    def patience(self) -> float:
        """Seconds in which a part has stopped, at the latest."""
        if self._killed:
            return 0.0
        return self._record.patience if self._record else _BEYOND_STOP

    async def end(self, name: str, within: float) -> None:
        """Have an agent stop what it keeps, and have it no more.

        A connection that is lost meanwhile is waited for. What a lost cluster keeps is cleared when it is back, or
        by ``stop``, to which all is left after ``kill``.
        """
        while self.is_whole and not self._killed:
            try:
                await self._end(name, within)
            except BridgeLostError:
                await asyncio.sleep(_POLL)
                continue
            except FleetError as error:
                log.warning("%s: %s", name, error)
            return
        self._left.add(name)

    async def _end(self, name: str, within: float) -> None:
        application = self.application(name)
        try:
            if await self.ask("placed", name=application):
                await self.call(name, "stop", within=within)
        except BridgeLostError:
            raise
        except FleetError as error:  # it has just died: Serve would make it again
            log.info("%s: %s", name, error)
        await self.ask("delete", name=application, patience=self.patience)

    async def ask(self, command: str, **arguments: Any) -> Any:
        """Ask the bridge. Raises FleetError."""
        # A part that lost its agent would have another made.
        if self._killed and command in ("call", "deploy"):
            raise FleetError(f"release {self.paths.release} is being stopped")
        return await super().ask(command, **arguments)

    async def kill(self) -> None:
        """End all parts on the cluster at once; their own stops end with that."""
        if self._task is not None:
            self._killed = True
            self._killing = asyncio.create_task(self._clear_all(), name="kill")
            await self._killing

    async def stop(self) -> None:
        """Leave the cluster without anything of ours; the record stays if that cannot be done now."""
        if self._clearing is not None:
            self._clearing.cancel()
            await asyncio.gather(self._clearing, return_exceptions=True)
        if self._task is not None:  # before, nothing is made there
            try:
                await self._clear_all()
                if (
                    self._killing is not None
                ):  # it asks Serve, too, which may be no more when the cluster is left
                    await asyncio.wait([self._killing])
                await self.ask("leave")
                forget_record(self.paths)
            except FleetError as error:
                log.warning("what runs on the cluster at %s was not stopped: %s", self._address, error)
        await super().stop()

    async def _clear_all(self) -> None:
        """Every part away; a connection that is lost has some seconds to come back. Raises FleetError."""
        lost: float | None = None
        while True:
            try:
                await self.ask("clear", prefix=self.application(""), patience=self.patience)
            except BridgeLostError:
                lost = lost or time.monotonic()
                if not self.is_whole or time.monotonic() - lost > _CONNECTED_AGAIN:
                    raise
                await asyncio.sleep(_POLL)
            else:
                return

    # -- inside -----------------------------------------------------------------------------------------

    async def _open(self) -> None:
        await super()._open()
        # "auto" means another cluster later.
        self._address = str(await ask_bridge(self._socket, "address"))
        left = sorted(self._left - {part.name for part in self._parts})
        self._left.clear()
        if left:
            self._clearing = asyncio.create_task(self._clear(left))

    async def _death(self) -> str | None:
        """Until the bridge ends (None), or the head has been silent for too long; follows the nodes meanwhile."""
        assert self._bridge is not None, "spawned before"
        bridge = asyncio.ensure_future(self._bridge.wait())
        answered = time.monotonic()
        try:
            while True:
                await asyncio.wait({bridge}, timeout=_LOOK_SECONDS)
                if bridge.done():
                    return None
                with contextlib.suppress(BridgeLostError, FleetError, TimeoutError):
                    # Not wait_for, which can swallow a stop: see client.py.
                    async with asyncio.timeout(_ANSWER_SECONDS):
                        nodes = await self.ask("nodes")
                    self._see(nodes)
                    answered = time.monotonic()
                if time.monotonic() - answered > _SILENT_SECONDS:
                    return f"its head at {self._address} does not answer"
        finally:
            bridge.cancel()

    def _see(self, nodes: list[dict[str, Any]]) -> None:
        if nodes == self._nodes:
            return
        before, now = ({node["address"] for node in each} for each in (self._nodes, nodes))
        if before - now:
            log.warning("nodes that are gone: %s", ", ".join(sorted(before - now)))
        if now - before:
            log.info("nodes that have come: %s", ", ".join(sorted(now - before)))
        self._nodes = nodes
        self._on_change()


def applied_port(paths: ReleasePaths) -> int | None:
    """Where the gateways of an earlier supervisor listen; None if that is not known."""
    try:
        return int(yaml.safe_load(paths.spec.read_text(encoding="utf-8"))["gateway"]["port"])
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return None


def chosen_nodes(wanted: tuple[str, ...], nodes: list[dict[str, Any]]) -> list[str]:
    """Addresses of the nodes that get a gateway: all, or those that are named by address or name.

    Raises UsageError for one that is not there, and for a name that several nodes have.
    """
    addresses = list(dict.fromkeys(str(node["address"]) for node in nodes))
    if not wanted:
        return addresses
    by_name: dict[str, list[str]] = {}
    for node in nodes:
        by_name.setdefault(str(node["name"]), []).append(str(node["address"]))
    return list(dict.fromkeys(_address_of(name, addresses, by_name) for name in wanted))


def gateway_places(wanted: tuple[str, ...], nodes: list[dict[str, Any]], found: Sequence[str]) -> list[str]:
    """As ``chosen_nodes``, but a gateway that was ``found`` keeps its place while its node is away."""
    away = [address for address in found if address not in {str(node["address"]) for node in nodes}]
    if not wanted:
        return chosen_nodes((), nodes) + away
    known = {str(node[key]) for node in nodes for key in ("address", "name")}
    there = tuple(name for name in wanted if name in known)
    missing = set(wanted) - known
    # Which node a name meant is known as long as the node is there; after that it may be any that is away.
    unclear = missing - set(away)
    if unclear and set(away) <= missing:
        return chosen_nodes(tuple(name for name in wanted if name in unclear), nodes)
    kept = away if unclear else [address for address in away if address in missing]
    return (chosen_nodes(there, nodes) if there else []) + kept


def _address_of(name: str, addresses: list[str], by_name: Mapping[str, list[str]]) -> str:
    if name in addresses:
        return name
    found = by_name.get(name, [])
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"fleet.ray.gateway_nodes: {len(found)} nodes are called {name}; name them by address: "
            + ", ".join(found)
        )
    known = ", ".join(addresses)
    raise UsageError(f"fleet.ray.gateway_nodes: the cluster has no node {name}; its nodes are: {known}")
