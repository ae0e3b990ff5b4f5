"""What can be known before anything starts: everything that would fail later is said now, and at once."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tri_serve.checkpoint.inspect import CheckpointFacts, inspect_checkpoint
from tri_serve.checkpoint.resolve import resolve_source
from tri_serve.errors import (
    EngineEnvironmentError,
    FleetError,
    MissingExtraError,
    ResourceError,
    TriServeError,
)
from tri_serve.fleet.gpu_preflight import check_gpus_here
from tri_serve.fleet.keys import check_exposure, client_key_hashes
from tri_serve.fleet.plan_preflight import check_model, check_plan
from tri_serve.fleet.prepare import Prepared, fleet_gpus
from tri_serve.fleet.problems import Problems
from tri_serve.fleet.release import LOG_BYTES, known_releases, release_paths
from tri_serve.fleet.resources import (
    DiskNeed,
    available_memory,
    check_disk,
    check_disks,
    check_memory,
    check_shared_memory,
    engine_memory,
    replicas_key,
)
from tri_serve.fleet.state import read_state
from tri_serve.launch.device import Device, check_gpus, detect_device
from tri_serve.launch.environment import EngineEnvironment, engines_dir, find_environment
from tri_serve.launch.gpus import GpuReading, plan_device_of
from tri_serve.launch.inherited import inherited_environment
from tri_serve.launch.install import DISK_BYTES
from tri_serve.places import cache_dir, data_dir
from tri_serve.plan.facts import ModelFacts
from tri_serve.plan.model import facts_from_config, model_facts
from tri_serve.process.ports import bind_listener
from tri_serve.spec.fleet import FleetSpec
from tri_serve.spec.gateway import GatewaySpec
from tri_serve.spec.models import Spec

if TYPE_CHECKING:
    from tri_serve.checkpoint.ahead import Ahead

_STATE_BYTES = 64 * 2**20
_FINDS_VLLM = "import importlib.util, sys; sys.exit(0 if importlib.util.find_spec('vllm') else 1)"
_PYTHON_SECONDS = 60
"""A Python starts in well under a second, but from a slow network disk in many."""
_GATEWAY_PACKAGES = ("uvloop", "httptools", "orjson")
_RAY_PACKAGES = ("ray", "fastapi", "starlette", "uvicorn", "grpc")
"""Ray, and what its Serve imports: a Ray that came with something else often lacks it."""


@dataclass(frozen=True)
class Preflight:
    """What was found. ``install`` says that the managed engine environment has to be made first."""

    device: Device
    checkpoint: CheckpointFacts
    install: bool
    client_keys: int
    warnings: tuple[str, ...] = ()
    """What may end the engine, and need not."""


@dataclass(frozen=True)
class Replaced:
    """Engines that run now, each of which ends before a new one starts in its place."""

    spec: Spec
    count: int

    def memory(self) -> int:
        """Bytes that they give back, estimated as those of new ones are."""
        try:
            facts = inspect_checkpoint(resolve_source(self.spec.model, cache_dir()))
            each = engine_memory(self.spec, detect_device(self.spec.engine.device), facts.total_bytes)
        except TriServeError:  # what they were started from is gone: count on nothing
            return 0
        return self.count * each


def check_python(python: Path) -> None:
    """Raises EngineEnvironmentError if the Python that the user named does not find vLLM."""
    environ = inherited_environment(os.environ) | {"PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(
            [str(python), "-c", _FINDS_VLLM],
            capture_output=True,
            text=True,
            env=environ,
            cwd="/",  # a Python without PYTHONSAFEPATH would look for vllm in the working directory
            timeout=_PYTHON_SECONDS,
            check=False,
        )
    except OSError as error:
        raise EngineEnvironmentError(f"engine.python: {python}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise EngineEnvironmentError(
            f"engine.python: {python} did not start within {_PYTHON_SECONDS} s"
        ) from error
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or [""])[-1]
        raise EngineEnvironmentError(
            f"engine.python: {python} has no vllm" + (f": {why}" if why else ""),
            hint="name the Python of an environment that has it, or leave engine.python out: up installs one",
        )


def check_port(gateway: GatewaySpec) -> None:
    """Raises ResourceError if the gateway could not listen, naming the release of ours that does."""
    try:
        bind_listener(gateway.host, gateway.port).close()
    except ResourceError as error:
        cause = error.__cause__
        taken = isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
        holder = _release_on(gateway.port) if taken else None
        if holder is None:
            raise
        raise ResourceError(
            f"port {gateway.port} on {gateway.host} is taken by your release {holder}",
            hint=f"choose another with --set gateway.port=PORT, or stop it: tri-serve down -r {holder}",
        ) from error


def _release_on(port: int) -> str | None:
    """The running release of this user whose gateway has that port."""
    for name in known_releases():
        try:
            state = read_state(release_paths(name).state)
        except FleetError:  # damaged: it says nothing
            continue
        if state is not None and state.url.endswith(f":{port}") and state.supervisor.alive:
            return name
    return None


def check_packages() -> None:
    """Raises MissingExtraError if what the gateway runs on is not installed."""
    if not all(map(_installed, _GATEWAY_PACKAGES)):
        raise MissingExtraError("gateway", "the gateway")


def check_ray(fleet: FleetSpec) -> None:
    """Raises MissingExtraError if Ray is wanted and not installed, ResourceError if it could not start here.

    Nothing is imported: Ray takes half a second and starts threads.
    """
    if fleet.supervisor != "ray":
        return
    if not all(map(_installed, _RAY_PACKAGES)):
        otherwise = "run without it: --supervisor process" if fleet.target == "local" else None
        raise MissingExtraError("ray", "the Ray supervisor", otherwise=otherwise)
    check_shared_memory()


def _installed(name: str) -> bool:
    """Whether the package can be imported; a mere folder of that name in the working directory does not count."""
    found = find_spec(name)
    return found is not None and found.origin is not None


def preflight(
    spec: Spec,
    *,
    environment_hashes: Mapping[str, str],
    state: Path,
    new_listener: bool = True,
    new_engines: int | None = None,
    replaced: Replaced | None = None,
    ahead: Callable[[], Ahead] | None = None,
    fetch: Callable[[], object] | None = None,
) -> Preflight:
    """Check everything; raises one error that names all that was found wrong.

    ``state`` is the release's folder. For a fleet that runs already: ``new_listener`` says whether it needs another
    socket, ``new_engines`` how many engines come on top of those that run (None: the fleet is new, and so is its
    Ray), and ``replaced`` which of those get a successor. A fleet that may grow is checked as large as it may come
    to be. If the checkpoint is not here, ``ahead`` tells what its config.json says and how large it is, and
    ``fetch`` gets it: called once nothing stands in the way, as far as config.json tells.
    """
    problems = Problems()
    keys = 0
    install = False
    device: Device = "cpu"
    environment: EngineEnvironment | None = None
    facts: CheckpointFacts | None = None
    coming: Ahead | None = None
    foreseen: ModelFacts | None = None

    def check_keys() -> None:
        nonlocal keys
        keys = len(client_key_hashes(spec.gateway, environment_hashes))
        check_exposure(spec.gateway, keys)

    def check_environment() -> None:
        nonlocal device, environment, install
        device = detect_device(spec.engine.device)
        try:
            environment = find_environment(spec.engine, data_dir(), device)
        except EngineEnvironmentError:
            if spec.engine.python is not None or spec.engine.command is not None:
                raise
            install = True
            return
        if spec.engine.python is not None and environment.python is not None:
            check_python(environment.python)

    def check_launch() -> None:
        kind, version = spec.engine.kind, spec.engine.version
        # What is refused does not depend on the environment, and is to be said with or without one.
        stand_in = EngineEnvironment(kind, version, device, None, (kind,), managed=False, path=None)
        Prepared(spec, device, environment or stand_in, checkpoint=Path()).check_launch()

    def look_ahead() -> None:
        nonlocal coming, foreseen
        if ahead is not None:
            coming = ahead()
            foreseen = facts_from_config(coming.config, coming.where, origin=str(coming.where))
            check_model(spec, foreseen.architecture, foreseen.quantization, coming.where)

    def check_checkpoint() -> None:
        nonlocal facts
        found = inspect_checkpoint(resolve_source(spec.model, cache_dir()))
        check_model(spec, found.architecture, found.quantization, found.path)
        facts = found

    def check_fit(model: Callable[[], ModelFacts], weights: int) -> None:
        """Of a checkpoint whose tensors take ``weights`` bytes, on the GPUs and in main memory."""
        if len(gpus) >= spec.engine.tensor_parallel_size:
            problems.collect(lambda: problems.warn(check_plan(spec, plan_device_of(spec, gpus), model())))
        if not here:
            return
        successors = replaced.count if replaced else 0
        problems.collect(
            lambda: check_memory(
                spec,
                device,
                weights,
                engines=engines + successors,
                available=available_memory(),
                given_back=replaced.memory() if replaced else 0,
                staying=max(0, spec.fleet.most_replicas - engines - successors),
                with_ray=spec.fleet.supervisor == "ray" and new_engines is None,
            )
        )

    gpus: tuple[GpuReading, ...] = ()
    here = spec.fleet.target == "local"
    engines = spec.fleet.most_replicas if new_engines is None else new_engines
    problems.collect(check_packages)
    problems.collect(lambda: check_ray(spec.fleet))
    problems.collect(check_keys)
    problems.collect(check_environment)
    problems.collect(check_launch)
    if here and device == "cuda":
        problems.collect(
            lambda: check_gpus(
                spec.fleet.most_replicas,
                spec.engine.tensor_parallel_size,
                fleet_gpus(spec),
                key=replicas_key(spec),
            )
        )
        gpus = check_gpus_here(spec, problems, engines=0 if replaced else engines)
    if here and new_listener:
        problems.collect(lambda: check_port(spec.gateway))
    problems.collect(look_ahead)
    disk = [DiskNeed(state, _STATE_BYTES + LOG_BYTES, "state and logs")]
    if install:
        needed = DISK_BYTES[device]
        disk.append(DiskNeed(engines_dir(data_dir()), needed, "the engine environment and its packages"))
    if coming is not None:
        disk.append(DiskNeed(coming.folder, coming.missing, "the checkpoint"))
    problems.collect(lambda: check_disks(disk))
    if foreseen is not None:
        known = foreseen
        check_fit(lambda: known, known.weight_bytes)
    if fetch is not None:
        problems.raise_any()
        fetch()
    problems.collect(check_checkpoint)
    if facts is not None:
        check_fit(lambda: model_facts(spec, None, cache_dir()), facts.total_bytes)
    problems.raise_any()
    assert facts is not None, "its absence is a problem"
    return Preflight(
        device=device,
        checkpoint=facts,
        install=install,
        client_keys=keys,
        warnings=tuple(problems.warnings),
    )


def preflight_for_cluster(spec: Spec, *, environment_hashes: Mapping[str, str], state: Path) -> None:
    """Check what this machine needs to supervise a fleet on a cluster; raises one error that names all of it.

    Device, engine environment, checkpoint, memory and ports are the nodes', which are asked once Ray is there.
    """
    problems = Problems()
    problems.collect(lambda: check_ray(spec.fleet))
    problems.collect(
        lambda: check_exposure(spec.gateway, len(client_key_hashes(spec.gateway, environment_hashes)))
    )
    problems.collect(lambda: check_disk(state, _STATE_BYTES + LOG_BYTES, "state and logs"))
    problems.raise_any()
