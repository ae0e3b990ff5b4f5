"""Ray as a fleet's runtime, seen from the supervisor: started, connected to, watched, started again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from tri_serve.errors import FleetError, TriServeError
from tri_serve.fleet.background import go_on
from tri_serve.fleet.backoff import RestartBackoff
from tri_serve.fleet.order import EngineOrder
from tri_serve.fleet.prepare import fleet_gpus
from tri_serve.fleet.ray import head
from tri_serve.fleet.ray.client import BridgeLostError, ask_bridge, refused
from tri_serve.fleet.ray.deployments import Deployments
from tri_serve.fleet.ray.processes import own_processes, processes_of_ray
from tri_serve.fleet.ray.remote_gateway import RemoteGateway
from tri_serve.fleet.ray.remote_replica import RemoteReplica
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.state import RayState
from tri_serve.gateway.config import GatewayConfig
from tri_serve.launch.device import detect_device
from tri_serve.process.child import Child
from tri_serve.process.guard import signal_exactly
from tri_serve.process.ports import free_port
from tri_serve.process.strays import ProcessIdentity, is_alive
from tri_serve.spec.models import Spec

log = logging.getLogger(__name__)

_START_SECONDS = 90.0
"""A head is up in some 3 s, Serve 2 s later; a machine that loads two engines besides takes longer."""
_CLUSTER_SECONDS = 30.0
"""For a cluster that is up: to connect takes 2 s, and 2 s more where Serve is not running yet."""
_ANSWER_SECONDS = 5.0
"""Until something answers at a cluster's address."""
_STOP_SECONDS = 2.0
_ORPHANS_SECONDS = 8.0
"""When Ray is dead: for the guards to end engines and gateway, which have up to 6 s themselves."""
_POLL = 0.05
_LOOK_SECONDS = 0.5
_CLUSTER_AGAIN = 10.0
_REFUSAL_LINES = 20


class RayRuntime(Deployments):
    """A private Ray; cluster.py has what is different on the user's own cluster."""

    def __init__(self, spec: Spec, paths: ReleasePaths) -> None:
        super().__init__(spec, paths)
        self.restarts = 0
        self._address: str | None = None if self.private else spec.fleet.ray.address
        self._phase: Literal["starting", "running", "waiting", "failed", "stopped"] = "starting"
        self._error: str | None = None
        self._head: Child | None = None
        self._bridge: Child | None = None
        self._nodes: list[dict[str, Any]] = []
        self._up = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._backoff = RestartBackoff(first=0.5, longest=10.0)
        self._bridge_backoff = RestartBackoff(first=0.5, longest=10.0, limit=None)
        self._on_change: Callable[[], None] = lambda: None
        self._processes: dict[str, ProcessIdentity] = {}
        self._environment: dict[str, str] = {}
        self._engine_key = secrets.token_urlsafe(32)
        self._parts: list[RemoteReplica | RemoteGateway] = []

    # -- Runtime ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Ray up and connected to. Raises FleetError, ResourceError."""
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        self._task = go_on(self._watch(), "ray")

    def replica(self, name: str, order: EngineOrder, on_change: Callable[[], None]) -> RemoteReplica:
        """A replica that has not begun."""
        self._on_change = on_change
        replica = RemoteReplica(self, name, order, on_change=on_change)
        self._parts.append(replica)
        return replica

    def gateways(
        self, config: GatewayConfig, listener: socket.socket | None, on_change: Callable[[], None]
    ) -> Sequence[RemoteGateway]:
        """The gateways, not begun: one here, or one on each chosen node."""
        self._on_change = on_change
        gateway = self.spec.gateway
        nodes: Sequence[str | None] = (None,) if self.private else self.gateway_nodes()
        config = config.model_copy(update={"gateways": len(nodes)})
        made = tuple(
            RemoteGateway(
                self,
                "gateway" if node is None else f"gateway@{node}",
                config,
                listener,
                host=gateway.host,
                port=gateway.port,
                on_change=on_change,
                node=node,
            )
            for node in nodes
        )
        self._parts += made
        return made

    def state(self) -> RayState:
        """How Ray is."""
        return RayState(
            phase=self._phase,
            address=self._address,
            private=self.private,
            processes={name: process.pid for name, process in self._processes.items()},
            nodes=len(self._nodes),
            restarts=self.restarts,
            error=self._error,
        )

    async def stop(self) -> None:
        """End the private Ray; leave the user's cluster without anything of ours."""
        self._stopping = True
        self._up.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._close()
        self._phase = "stopped"
        if self.private:
            await asyncio.to_thread(head.discard, self.paths)

    @property
    def engine_key(self) -> str:
        """What gateways present to engines."""
        return self._engine_key

    @property
    def takes_over(self) -> bool:
        """Whether something of an earlier life goes on in this one."""
        return False

    async def check(self, spec: Spec, progress: Callable[[str], None]) -> None:
        """Nothing is to be looked at elsewhere."""

    async def engines_begun(self) -> None:
        """Nothing is to be waited for."""

    async def kill(self) -> None:
        """Everything is this machine's, and is swept there."""

    # -- for the parts ----------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether Ray can be asked."""
        return self._up.is_set() and not self._stopping

    @property
    def is_whole(self) -> bool:
        """Whether Ray lives and keeps its agents, be it that it cannot be asked just now."""
        return not self._stopping and self._phase == "running"

    def forget(self, part: RemoteReplica | RemoteGateway) -> None:
        """The part is stopped: what happens to Ray no longer concerns it."""
        with contextlib.suppress(ValueError):
            self._parts.remove(part)

    async def wait_up(self) -> None:
        """Until Ray can be asked."""
        await self._up.wait()

    async def ask(self, command: str, **arguments: Any) -> Any:
        """Ask the bridge. Raises FleetError."""
        if not self.is_up:
            raise BridgeLostError(self._error or "Ray is not up")
        return await ask_bridge(self._socket, command, **arguments)

    def gateway_nodes(self) -> list[str]:
        """Addresses of the nodes that get a gateway; none are told apart in a private Ray."""
        return []

    # -- inside -----------------------------------------------------------------------------------------

    @property
    def _socket(self) -> Any:
        return self.paths.sockets / "ray.sock"

    async def _open(self) -> None:
        self._phase = "starting"
        begun = time.monotonic()
        if self.private:
            self._environment = await self._start_head()
        else:
            self._environment = head.without_secrets(os.environ)
        await self._connect(self._environment)
        device = self.spec.engine.device
        if self.private:
            self.cuda = detect_device(device) == "cuda"
        else:
            self.cuda = device == "cuda" or (device == "auto" and any(node["gpus"] for node in self._nodes))
        log.info("ray: up after %.1f s at %s", time.monotonic() - begun, self._address)

    async def _connect(self, env: dict[str, str]) -> None:
        """A bridge that answers; from then on Ray can be asked."""
        begun = time.monotonic()
        self._socket.unlink(missing_ok=True)
        assert self._address is not None, "given, or chosen with the head"
        self._bridge = await Child.spawn(
            [
                sys.executable,
                "-P",
                "-m",
                "tri_serve.fleet.ray.bridge",
                f"--address={self._address}",
                f"--socket={self._socket}",
                f"--patience={_START_SECONDS if self.private else _ANSWER_SECONDS:g}",
            ],
            env=env,
            log=self.paths.log("ray"),
            name="ray bridge",
        )
        await self._until_answering(begun)
        self._nodes = await ask_bridge(self._socket, "nodes")
        if self._head is not None:
            self._processes = own_processes(self._head.pid)
        self._phase = "running"
        self._up.set()
        self._on_change()

    async def _start_head(self) -> dict[str, str]:
        folder = await asyncio.to_thread(head.make_temporary_folder, self.paths)
        env = head.private_environment(os.environ, head.make_token(self.paths))
        if self.spec.engine.device != "cpu" and detect_device(self.spec.engine.device) == "cuda":
            gpus = fleet_gpus(self.spec)
            env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        else:
            gpus = ()
        port = free_port(head.HOST)
        self._address = f"{head.HOST}:{port}"
        self._head = await Child.spawn(
            head.head_command(port=port, folder=folder, cpus=len(os.sched_getaffinity(0)), gpus=len(gpus)),
            env=env,
            log=self.paths.log("ray"),
            name="ray",
            leftover_grace=_ORPHANS_SECONDS,
            orphan_grace=_ORPHANS_SECONDS,
        )
        return env

    async def _until_answering(self, begun: float) -> None:
        assert self._bridge is not None, "spawned before"
        while True:
            if self._socket.exists():
                with contextlib.suppress(FleetError):
                    await ask_bridge(self._socket, "nodes")
                    return
            for child in (self._head, self._bridge):
                if child is not None and child.returncode is not None:
                    raise self._not_started(child)
            reason = None if self.private else refused(self._bridge.tail(_REFUSAL_LINES))
            if reason is not None:
                raise FleetError(f"cannot use the Ray at {self._address}: {reason}")
            limit = _START_SECONDS if self.private else _CLUSTER_SECONDS
            if time.monotonic() - begun > limit:
                otherwise = "; --supervisor process does without Ray" if self.private else ""
                raise FleetError(
                    f"Ray at {self._address} did not answer within {limit:g} s",
                    hint=f"its log: {self.paths.log('ray')}{otherwise}",
                )
            await asyncio.sleep(_POLL)

    def _not_started(self, child: Child) -> FleetError:
        if not self.private:  # the bridge says in one line what the matter is
            return FleetError((child.tail(1) or ("the bridge to Ray ended without a word",))[0])
        words = " / ".join(child.tail(3))
        return FleetError(f"Ray did not start: {words}", hint=f"its log: {self.paths.log('ray')}")

    async def _watch(self) -> None:
        """Ray again whenever it dies, with a pause that grows; given up after as many deaths as engines have."""
        while True:
            since = time.monotonic()
            reason = await self._death()
            self._up.clear()
            up = time.monotonic() - since
            if reason is None:
                reason = await self._reconnect(up)
                if reason is None:
                    continue
            whose = "Ray died" if self.private else "the cluster is lost"
            self._error = f"{whose}: {reason}"
            self._phase = "waiting"
            log.warning("%s", self._error)
            for part in self._parts if self.private else ():  # a cluster's parts may serve all the while
                part.ray_died(FleetError(self._error))
            self._on_change()
            if not await self._open_again(up):
                return

    async def _open_again(self, up: float) -> bool:
        """Start Ray until it is up; False if it is given up. ``up``: seconds for which it lived."""
        while True:
            await self._close()
            delay = self._backoff.failed(up)
            if delay is None and not self.private:
                delay = _CLUSTER_AGAIN  # it is the user's, who may bring it back at any time
            if delay is None:
                self._phase = "failed"
                log.error("ray: given up after %d failures in a row", self._backoff.failures)
                self._on_change()
                return False
            await asyncio.sleep(delay)
            self.restarts += self.private  # a cluster is tried again and again, and restarts by itself
            try:
                await self._open()
            except (TriServeError, OSError) as error:
                what = "Ray does not start again" if self.private else "the cluster is lost"
                self._error, up = f"{what}: {error}", 0.0
                self._phase = "waiting"
                log.warning("%s", self._error)
            else:
                return True

    async def _reconnect(self, up: float) -> str | None:
        """The bridge alone died, after ``up`` seconds: another one takes its place, or why it cannot.

        Engines and gateways notice nothing. The first comes at once; one that keeps dying is said, and waited with.
        """
        assert self._bridge is not None, "spawned before"
        ended = f"the connection to it ended with exit code {self._bridge.returncode}"
        log.warning("ray: %s", ended)
        delay = self._bridge_backoff.failed(up)
        assert delay is not None, "it has no limit"
        if self._bridge_backoff.failures > 1:
            self._error = f"{ended}, {self._bridge_backoff.failures} times soon after it was made"
            self._on_change()
            await asyncio.sleep(delay)
        try:
            await self._connect(self._environment)
        except (TriServeError, OSError) as error:
            log.warning("ray: cannot connect again: %s", error)
            return f"cannot connect to it again: {error}"
        return None

    async def _death(self) -> str | None:
        """Until a process of Ray is gone, and which; None if it was the bridge."""
        assert self._bridge is not None, "spawned before"
        bridge = asyncio.ensure_future(self._bridge.wait())
        whole = asyncio.ensure_future(self._head.wait()) if self._head is not None else None
        waits = {bridge} | ({whole} if whole is not None else set())
        try:
            while True:
                await asyncio.wait(waits, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                gone = [f"{name} (pid {it.pid})" for name, it in self._processes.items() if not is_alive(it)]
                if gone:
                    return f"{' and '.join(gone)} {'is' if len(gone) == 1 else 'are'} gone"
                if whole is not None and whole.done():
                    return f"its head ended with exit code {whole.result()}"
                if bridge.done():
                    return None
        finally:
            for wait in waits:
                wait.cancel()

    async def _close(self) -> None:
        self._up.clear()
        self._processes = {}
        # Each is forgotten when it is gone: a stop that comes meanwhile begins here anew.
        if self._bridge is not None:
            await self._bridge.stop(grace=0.0)
            self._bridge = None
        if self._head is not None:
            await self._close_head(self._head)
            self._head = None

    async def _close_head(self, whole: Child) -> None:
        if self._stopping:  # the agents have been stopped before
            await whole.stop(grace=_STOP_SECONDS)
            return
        # Ray's processes and the agents go at once; the guards below them end engines and gateway so that no stream
        # is cut: each gets an error event.
        for pid, ticks in processes_of_ray(whole.pid).items():
            signal_exactly(pid, ticks, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(whole.wait(), _ORPHANS_SECONDS)
        await whole.stop(grace=0.0)
