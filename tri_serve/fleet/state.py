"""What a fleet's supervisor knows, as it writes it to state.json and answers to ``status``."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tri_serve.boot import boot_id
from tri_serve.errors import FleetError, TriServeError
from tri_serve.process.strays import ProcessIdentity, identify, is_alive


class FleetPhase(StrEnum):
    """Where a fleet is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    CHANGING = "changing"
    STOPPING = "stopping"
    FAILED = "failed"
    """It could not be started; ``error`` says why. Nothing of it runs."""


class ReplicaPhase(StrEnum):
    """Where a replica's engine is in its life."""

    STARTING = "starting"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    WAITING = "waiting"
    """Its engine died; it is started again when the back-off is over."""
    FAILED = "failed"
    """It died again and again, and is not restarted until somebody asks for it."""
    STOPPED = "stopped"


class StateModel(BaseModel):
    """Frozen; unknown keys are ignored, so that another version's state can be read."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ErrorState(StateModel):
    """An error on its way from the supervisor to whoever asked."""

    message: str
    hint: str | None = None
    exit_code: int = 1
    log_tail: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: TriServeError) -> ErrorState:
        """The error's facts."""
        tail = tuple(getattr(error, "log_tail", ()))
        return cls(message=error.message, hint=error.hint, exit_code=error.exit_code, log_tail=tail)


class SupervisorState(StateModel):
    """The supervisor process. Pid, start and boot together name it; a pid alone may be another's by now."""

    pid: int
    ticks: int
    boot: str
    token: str
    """Marker in the environment of everything that it started."""
    started: float
    """Unix time."""
    host: str = ""
    """Name of its machine."""

    @property
    def elsewhere(self) -> str | None:
        """Its machine, if that is another one, which shares this one's files: who lives there is not seen here."""
        here = self.boot == boot_id() or self.host in ("", platform.node())
        return None if here else self.host

    @property
    def alive(self) -> bool:
        """Whether this very process still runs, on this machine."""
        return self.boot == boot_id() and is_alive(ProcessIdentity(self.pid, self.ticks))

    @classmethod
    def current(cls, token: str) -> SupervisorState:
        """This process."""
        me = identify(os.getpid())
        assert me is not None, "a process that asks is alive"
        host = platform.node()
        return cls(pid=me.pid, ticks=me.ticks, boot=boot_id(), token=token, started=time.time(), host=host)


class ReplicaState(StateModel):
    """One replica."""

    name: str
    phase: ReplicaPhase
    since: float
    """Unix time at which the phase began."""
    node: str = ""
    """The machine that its engine runs on, by name or address."""
    device: str | None = None
    """``cpu``, or ``cuda:0,1``: the GPUs that are its own."""
    pid: int | None = None
    core_pids: tuple[int, ...] = ()
    """The engine's processes that hold the model."""
    host: str | None = None
    port: int | None = None
    lives: int = 0
    """Engines that were begun in this place so far, also those that could not even be made."""
    restarts: int = 0
    phase_seconds: dict[str, float] = {}
    earlier_seconds: float | None = None
    """How long the last start in this place took, from spawn to ready; None if there was none."""
    kv_cache_tokens: int | None = None
    linear_kernel: str | None = None
    in_flight: int | None = None
    """Requests that the gateways have running there."""
    running: int | None = None
    """Requests that the engine computes now, as it says."""
    waiting: int | None = None
    """Requests that wait in the engine."""
    tokens_per_second: float | None = None
    """Tokens generated over the last seconds."""
    error: str | None = None
    """Why its engine last died or did not start."""
    retry: float | None = None
    """Unix time of the next start while waiting."""
    log: str


class WorkerState(StateModel):
    """One worker of a gateway."""

    pid: int | None = None
    up: bool = False
    silent_seconds: float = 0.0
    """How old its figures are; a sound worker says something every second."""
    connections: int = 0
    in_flight: int = 0


class GatewayState(StateModel):
    """One gateway: its first process, and the workers."""

    name: str = "gateway"
    """``gateway`` where there is one; ``gateway@NODE`` on a cluster."""
    phase: Literal["starting", "running", "waiting", "stopped"]
    since: float
    node: str = ""
    url: str | None = None
    """Where clients connect; None before its socket is bound."""
    pid: int | None = None
    ready: bool = False
    workers: tuple[WorkerState, ...] = ()
    worker_restarts: int = 0
    admin_port: int | None = None
    in_flight: int | None = None
    restarts: int = 0
    client_keys: int = 0
    """How many client keys it takes; 0 means that it asks for none."""
    locked: bool = False
    """Every client key is disabled: nobody is let in."""
    error: str | None = None
    log: str


class NodeState(StateModel):
    """One living node of a cluster."""

    address: str
    name: str
    gpus: int = 0
    cpus: int = 0


class RayState(StateModel):
    """The Ray that supervises a fleet."""

    phase: Literal["starting", "running", "waiting", "failed", "stopped"]
    address: str | None = None
    """``HOST:PORT`` of its head."""
    private: bool = True
    """Started for this release alone; False: the user's own cluster."""
    processes: dict[str, int] = {}
    """Its own processes on this machine by name (``gcs_server``, ``raylet``)."""
    nodes: int = 0
    restarts: int = 0
    error: str | None = None
    """Why it last died."""
    doing: str | None = None
    """What is being looked at before anything starts."""
    members: tuple[NodeState, ...] = ()
    """The living nodes of a user's cluster, the head first."""


class FleetState(StateModel):
    """A whole fleet."""

    release: str
    phase: FleetPhase
    target: str = "local"
    url: str
    model: str
    source: str
    engine: str
    supervisor: SupervisorState
    ray: RayState | None = None
    """None: the supervisor runs engines and gateway as its own children."""
    replicas: tuple[ReplicaState, ...]
    desired_replicas: int = 1
    """How many the fleet is to have now; an autoscaled fleet changes it."""
    autoscaling: tuple[int, int] | None = None
    """Fewest and most replicas, if their number follows the load."""
    gateways: tuple[GatewayState, ...]
    error: ErrorState | None = None

    @property
    def elsewhere(self) -> str | None:
        """Another machine on which its supervisor may live."""
        return None if self.phase is FleetPhase.FAILED else self.supervisor.elsewhere

    @property
    def ready(self) -> bool:
        """Whether a request would be answered now."""
        up = self.phase in (FleetPhase.RUNNING, FleetPhase.CHANGING)
        # On a cluster each node's gateway serves on its own; `status` tells those apart that do not.
        enough = any if self.target == "ray" else all
        return up and bool(self.gateways) and enough(gateway.ready for gateway in self.gateways)


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` by a file that only the user can read, in one step: a reader sees old or new."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_state(path: Path) -> FleetState | None:
    """The state in ``path``; None if there is none. Raises FleetError if it cannot be understood."""
    try:
        return FleetState.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, ValidationError) as error:
        raise FleetError(
            f"{path} is damaged or of another version of tri-serve",
            hint="tri-serve down removes it, and stops what it can still find of that release",
        ) from error
