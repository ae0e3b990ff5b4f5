"""The gateway of a fleet: one child process that is started, told the roster, replaced, and restarted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tri_serve.errors import ConnectionFailedError, GatewayStartError, ResourceError, TriServeError
from tri_serve.fleet.background import go_on
from tri_serve.fleet.backoff import RestartBackoff
from tri_serve.fleet.keys import NOBODY
from tri_serve.fleet.parts import Address
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.state import GatewayState, WorkerState, write_private
from tri_serve.fleet.unix_http import unix_request
from tri_serve.gateway.config import GatewayConfig, ReplicaAddress
from tri_serve.process.child import ORPHAN_GRACE, Child

log = logging.getLogger(__name__)

START_TIMEOUT = 30.0
"""Seconds; a gateway is up in well under one. A machine that swaps may need more."""
_BEYOND_DRAIN = 5.0
"""Seconds after its own drain deadline in which a gateway, or the workers that one left behind when it died, end
their streams with an error event and exit."""
_SECRETS = frozenset({"TRI_SERVE_API_KEYS", "TRI_SERVE_API_KEY", "VLLM_API_KEY", "HF_TOKEN", "NOTIFY_SOCKET"})

_TAKEOVER = 10.0
"""Seconds in which a new gateway finds its engines before the old one stops taking connections."""

Phase = Literal["starting", "running", "waiting", "stopped"]


@dataclass(frozen=True)
class _Process:
    child: Child
    admin_socket: Path
    started: float
    drain: float

    async def ask(self, method: str, target: str, body: object = None) -> Any:
        return await asyncio.to_thread(unix_request, self.admin_socket, method, target, body)

    async def end(self) -> None:
        await self.child.stop(grace=self.drain + _BEYOND_DRAIN)
        self.admin_socket.unlink(missing_ok=True)


def gateway_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` without what a gateway has no business with: secrets, and what Ray tells its own children."""
    return {n: value for n, value in environ.items() if n not in _SECRETS and not n.startswith("RAY_")}


def config_file(path: Path, text: str) -> tuple[Path, int | None]:
    """Where a gateway process can read ``text``: the file, or on a full disk memory that it inherits.

    A gateway that dies has to come back whatever the disk says. The descriptor, if any, is the caller's to
    pass on and close.
    """
    try:
        write_private(path, text)
    except OSError as error:
        log.warning("cannot write %s: %s; the gateway gets it in memory", path, error.strerror)
        memory = os.memfd_create(path.name)
        os.write(memory, text.encode())
        return Path(f"/proc/self/fd/{memory}"), memory
    return path, None


def with_status(state: GatewayState, status: dict[str, Any] | None) -> GatewayState:
    """What is known from outside, and what the process says of itself (None: nothing)."""
    if status is None:
        return state
    workers = status.get("workers", [])
    return state.model_copy(
        update={
            "ready": bool(status.get("ready")),
            "workers": tuple(WorkerState.model_validate(worker) for worker in workers),
            "worker_restarts": status.get("worker_restarts", 0),
            "admin_port": status.get("admin_port"),
            "in_flight": sum(worker.get("in_flight", 0) for worker in workers),
        }
    )


def _add_running(status: dict[str, Any], former: dict[str, Any]) -> None:
    """Count the requests that an earlier process has on each replica to those of ``status``."""
    running = {entry["name"]: entry["in_flight"] for entry in former["replicas"]}
    for entry in status["replicas"]:
        entry["in_flight"] += running.get(entry["name"], 0)


def url_of(host: str, port: int) -> str:
    """Where clients connect."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class GatewayProcess:
    """Holds the listening socket; every gateway process inherits it, so it stays open between two of them."""

    def __init__(
        self,
        paths: ReleasePaths,
        listener: socket.socket,
        config: GatewayConfig,
        *,
        on_change: Callable[[], None],
        name: str = "gateway",
        node: str = "",
        address: Address | None = None,
        orphan_grace: float = ORPHAN_GRACE + 3.0,
        backoff: RestartBackoff | None = None,
    ) -> None:
        self.name = name
        self._node = node
        self._address = address
        # Longer than engines have: as those end, their streams are given an error event instead of a cut.
        self._orphan_grace = orphan_grace
        self.config = config
        self.listener = listener
        self.restarts = 0
        self.error: TriServeError | None = None
        self._paths = paths
        self._on_change = on_change
        # Clients wait meanwhile: the first restart comes at once, and no number of deaths is a reason to give up.
        self._backoff = backoff or RestartBackoff(first=0.05, longest=5.0, steady=10.0, limit=None)
        self._generation = 0
        self._current: _Process | None = None
        self._former: list[_Process] = []
        """Replaced ones, which still finish what they have."""
        self._roster: tuple[ReplicaAddress, ...] = ()
        self._tell = asyncio.Event()
        self._told_event = asyncio.Event()
        self._swap = asyncio.Lock()
        self._phase: Phase = "starting"
        self._since = time.time()
        self._stopping = asyncio.Event()
        self._again = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._retiring: set[asyncio.Task[object]] = set()

    @property
    def phase(self) -> Phase:
        """Where the gateway is in its life."""
        return self._phase

    def begin(self) -> None:
        """Start in the background."""
        self._tasks = [
            go_on(self._keep_running(), "gateway"),
            go_on(self._keep_telling(), "gateway roster"),
        ]

    def set_roster(self, roster: Sequence[ReplicaAddress]) -> None:
        """Which engines may be sent requests; told to the process as soon as it can be."""
        if tuple(roster) != self._roster:
            self._roster = tuple(roster)
            self._told_event.clear()
            self._tell.set()

    async def roster_told(self, *, within: float = 5.0) -> None:
        """Until the process knows the roster, at most ``within`` seconds: one that is down knows nobody."""
        if self._current is None or self._stopping.is_set():
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._told_event.wait(), within)

    async def wait_ready(self, *, within: float) -> bool:
        """Until the process would pass a request on; False if it would not in time."""
        deadline = time.monotonic() + within
        while not ((await self.status()) or {}).get("ready"):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True

    async def status(self) -> dict[str, Any] | None:
        """What the process says of itself, and what those before it still have running; None if it is silent."""
        process = self._current
        if process is None:
            return None
        try:
            answer = await process.ask("GET", "/status")
        except ConnectionFailedError as error:
            log.warning("%s", error)
            return None
        if not isinstance(answer, dict):
            return None
        for former in tuple(self._former):
            with contextlib.suppress(ConnectionFailedError):  # it has just ended
                _add_running(answer, await former.ask("GET", "/status"))
        return answer

    def state(self, status: dict[str, Any] | None) -> GatewayState:
        """Everything that is known of it; ``status`` is its own answer."""
        known = GatewayState(
            name=self.name,
            node=self._node,
            url=url_of(*self._address) if self._address else None,
            phase=self._phase,
            since=self._since,
            pid=self._current.child.pid if self._current else None,
            restarts=self.restarts,
            client_keys=len(self.config.client_key_hashes),
            locked=self.config.client_key_hashes == NOBODY,
            error=self.error.message if self.error else None,
            log=str(self._paths.log("gateway")),
        )
        return with_status(known, status)

    async def end_streams(self, replica: str) -> None:
        """The drain deadline of ``replica`` has come: what still runs there is ended, or asked elsewhere."""
        present = (self._current,) if self._current is not None else ()
        for process in (*present, *self._former):
            with contextlib.suppress(ConnectionFailedError):  # it has just died, and its streams with it
                await process.ask("POST", "/end", {"replica": replica})

    async def replace(
        self,
        config: GatewayConfig,
        listener: socket.socket | None = None,
        *,
        address: Address | None = None,
    ) -> None:
        """Put a process with ``config`` (and another socket) in place of the running one.

        The new one takes connections before the old one stops taking them. On failure the old one stays;
        raises GatewayStartError. ``address`` is what the gateway's URL says from then on.
        """
        async with self._swap:
            if self._stopping.is_set():
                if listener is not None:
                    listener.close()
                raise GatewayStartError(f"{self.name} is being stopped")
            old, old_config, old_listener = self._current, self.config, self.listener
            self.config, self.listener = config, listener or old_listener
            if old is not None and config.admin_port and config.admin_port == old_config.admin_port:
                self._current = None  # the port of its admin API has to be free first
                await old.end()
            try:
                self._current = await self._start()
            except TriServeError:
                self.config, self.listener = old_config, old_listener
                if listener is not None:
                    listener.close()
                self._again.set()
                raise
            if self.listener is not old_listener:
                old_listener.close()
            self._address = address or self._address
            self._since = time.time()  # "running" is not new, but this process is
            self._enter("running")
            if old is not None and self._roster and not await self.wait_ready(within=_TAKEOVER):
                log.warning("the new gateway does not see a replica yet")
            if old is not None:
                self._retire(self._end_former(old))
            self._again.set()

    async def close_listener(self) -> None:
        """Stop the process and close the socket, so that another can be bound on the same port."""
        async with self._swap:
            old, self._current = self._current, None
            self.listener.close()
            self._enter("starting")
            if old is not None:
                await old.end()

    def reopen(self, listener: socket.socket) -> None:
        """Go on with ``listener`` in place of one that was closed; a process comes until one runs."""
        self.listener = listener
        self._again.set()

    def restart(self) -> None:
        """Forget the record of failures, and start at once if it is down."""
        self._backoff.reset()
        self._again.set()

    async def stop(self) -> None:
        """Close the socket, let running requests finish within the drain time, end the process."""
        self._stopping.set()
        self._again.set()
        self._tell.set()
        self.listener.close()
        async with self._swap:
            if self._current is not None:
                await self._current.end()
        await asyncio.gather(*self._tasks, *self._retiring)
        self._enter("stopped")

    async def _end_former(self, process: _Process) -> None:
        self._former.append(process)
        try:
            await process.end()
        finally:
            self._former.remove(process)

    def _retire(self, ending: Coroutine[Any, Any, object]) -> None:
        retiring = asyncio.create_task(ending, name="retiring gateway")
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    def _enter(self, phase: Phase) -> None:
        if phase != self._phase:
            self._phase = phase
            self._since = time.time()
            log.info("gateway: %s", phase)
        self._on_change()

    async def _start(self) -> _Process:
        self._generation += 1
        admin_socket = self._paths.admin_socket(self._generation)
        admin_socket.unlink(missing_ok=True)
        drain = self.config.timeouts.drain
        config = self.config.model_copy(
            update={"admin_socket": admin_socket, "replicas": self._roster, "orphan_drain": drain}
        )
        path, memory = config_file(self._paths.gateway_config, config.model_dump_json(indent=2) + "\n")
        descriptor = self.listener.fileno()
        argv = [sys.executable, "-P", "-m", "tri_serve.gateway", "--config", str(path)]
        try:
            child = await Child.spawn(
                [*argv, "--listen-fd", str(descriptor)],
                env=gateway_environment(os.environ),
                log=self._paths.log("gateway"),
                name="gateway",
                pass_fds=(descriptor,) if memory is None else (descriptor, memory),
                leftover_grace=drain + _BEYOND_DRAIN,
                orphan_grace=self._orphan_grace,
            )
        finally:
            if memory is not None:
                os.close(memory)
        process = _Process(child, admin_socket, time.monotonic(), drain)
        try:
            await asyncio.wait_for(self._until_answering(process), START_TIMEOUT)
        except TimeoutError as error:
            tail = child.tail(20)
            await child.stop(grace=0)
            raise GatewayStartError(
                f"the gateway did not answer within {START_TIMEOUT:g} s", log_tail=tail
            ) from error
        except BaseException:
            await child.stop(grace=0)
            raise
        self._told_event.clear()
        self._tell.set()  # the roster may have changed since the file was written
        return process

    async def _until_answering(self, process: _Process) -> None:
        ended = asyncio.ensure_future(process.child.wait_program())
        try:
            while not ended.done():
                if process.admin_socket.exists():
                    with contextlib.suppress(ConnectionFailedError):
                        await process.ask("GET", "/status")
                        return
                await asyncio.wait([ended], timeout=0.03)
        finally:
            ended.cancel()
        raise GatewayStartError(
            f"the gateway ended with exit code {ended.result()} while starting",
            log_tail=process.child.tail(20),
        )

    async def _keep_running(self) -> None:
        while not self._stopping.is_set():
            self._again.clear()
            try:
                async with self._swap:
                    bound = self.listener.fileno() >= 0
                    if self._current is None and bound and not self._stopping.is_set():
                        self._current = await self._start()
                        self._enter("running")
                    process = self._current
                if process is None:  # stopping, or between close_listener and the socket that follows
                    await self._again.wait()
                    continue
                status = await process.child.wait_program()
                if self._current is not process or self._stopping.is_set():
                    continue
                self._current = None
                self._retire(process.child.wait())  # its workers finish what they have
                process.admin_socket.unlink(missing_ok=True)
                self.error = GatewayStartError(f"the gateway died: exit code {status}")
                up = time.monotonic() - process.started
            except TriServeError as error:
                self.error, up = error, 0.0
            except OSError as error:  # no descriptor, no process: another may be had later
                self.error, up = ResourceError(f"the gateway: {error.strerror or error}"), 0.0
            log.warning("%s", self.error)
            delay = self._backoff.failed(up)
            self._enter("waiting")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._again.wait(), delay)
            self.restarts += 1

    async def _keep_telling(self) -> None:
        while True:
            await self._tell.wait()
            if self._stopping.is_set():
                return
            self._tell.clear()
            process, roster = self._current, self._roster
            if process is None:
                continue  # the next process is told when it starts
            body = {"replicas": [address.model_dump() for address in roster]}
            try:
                await process.ask("PUT", "/roster", body)
            except ConnectionFailedError as error:
                log.warning("%s", error)
                await asyncio.sleep(0.2)
                self._tell.set()
                continue
            if roster == self._roster and process is self._current:
                self._told_event.set()
                self._on_change()
