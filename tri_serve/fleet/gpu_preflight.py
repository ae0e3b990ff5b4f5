"""What can be known of GPUs before an engine is started on them: the driver, what is free and who holds the rest,
shared memory. Functions of readings; ``launch.gpus`` takes those."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tri_serve.errors import FleetError, ResourceError
from tri_serve.fleet.problems import Problems
from tri_serve.fleet.release import known_releases, release_paths
from tri_serve.fleet.state import read_state
from tri_serve.launch.gpus import GpuProcess, GpuReading, devices_here
from tri_serve.plan.constraints import parse_version
from tri_serve.plan.constraints.driver import COMPATIBILITY, LEAST_DRIVER, cuda_of
from tri_serve.plan.constraints.voided import is_set
from tri_serve.plan.memory import CONTEXT_BYTES, RANKS_BYTES
from tri_serve.spec.engine import EngineSpec
from tri_serve.spec.models import Spec

_GIB = 2**30
_MIB = 2**20
_LEAST_SHARE = 0.05
_NAMED_PROCESSES = 4
ENGINE_SHARED_BYTES = 10 * 24 * _MIB + _MIB
"""Shared memory that must be free when an engine of several GPUs starts: the largest ring of vLLM 0.32, 10 chunks
of 24 MiB and its marks (distributed/device_communicators/shm_broadcast.py, check_shm_free_space). Docker gives
64 MiB."""


def check_gpus_here(
    spec: Spec,
    problems: Problems,
    *,
    engines: int,
    environ: Mapping[str, str] = os.environ,
) -> tuple[GpuReading, ...]:
    """All of it for ``engines`` new ones on this machine, kept in ``problems``; returns the readings that it was
    judged by.

    GPUs whose engines are replaced are given back first: their number does not count here.
    """
    readings: tuple[GpuReading, ...] = ()

    def read() -> None:
        nonlocal readings
        readings = devices_here({**environ, **spec.engine.env})

    problems.collect(read)
    each = spec.engine.tensor_parallel_size
    # New engines come after those that run, in the order of the GPUs.
    first = max(0, spec.fleet.most_replicas - engines) * each
    taken = readings[first : first + engines * each]
    problems.collect(lambda: problems.warn(check_driver(spec.engine, readings)))
    problems.collect(lambda: problems.warn(check_free_memory(spec.engine, taken, owner=release_of)))
    problems.collect(lambda: check_engine_shared_memory(spec.engine))
    return readings


def check_driver(engine: EngineSpec, gpus: Sequence[GpuReading]) -> tuple[str, ...]:
    """Raises ResourceError if the driver is too old for the CUDA that the managed environment brings; a warning if
    the user has vLLM bring a newer half of it.

    An environment of the user's own may bring another one: nothing is said of it.
    """
    if engine.python is not None or engine.command is not None:
        return ()
    needs = cuda_of(parse_version(engine.version))
    for gpu in gpus[:1]:  # one driver for all
        if gpu.driver_cuda is None or gpu.driver_cuda[0] >= needs[0]:
            continue
        said = (
            f"the NVIDIA driver {gpu.driver} runs CUDA up to {_dotted(gpu.driver_cuda)}, and vLLM "
            f"{engine.version} is built for CUDA {_dotted(needs)}"
        )
        if is_set(engine, COMPATIBILITY):
            return (
                f"{said}; {COMPATIBILITY} is set, and works where NVIDIA's cuda-compat takes this driver",
            )
        raise ResourceError(
            said,
            hint=f"install a driver of branch {LEAST_DRIVER[needs[0]]} or newer, name an environment with a vLLM "
            "built for the older CUDA (engine.python), or, on a data-centre GPU with NVIDIA's package cuda-compat, "
            f"--set engine.env.{COMPATIBILITY}=1",
        )
    return ()


def check_free_memory(
    engine: EngineSpec,
    gpus: Sequence[GpuReading],
    *,
    owner: Callable[[GpuProcess], str | None] = lambda process: None,
) -> tuple[str, ...]:
    """Raises ResourceError if an engine would find less of a GPU free than the share that it takes; a warning if
    that depends on how much its CUDA context takes.

    vLLM compares them after the context is there, and ends with an error (0.32: v1/worker/utils.py,
    request_memory). ``owner`` says whose a process is: the name of a release. The hint names the largest share that
    works. Nothing is said of a GPU whose memory is not known.
    """
    context = CONTEXT_BYTES + (RANKS_BYTES if engine.tensor_parallel_size > 1 else 0)

    def wanted_of(gpu: GpuReading) -> int:
        return math.ceil(gpu.usable * engine.gpu_memory_utilization)

    known = [gpu for gpu in gpus if gpu.memory_known]
    tight = [gpu for gpu in known if gpu.free - context < wanted_of(gpu)]
    short = [gpu for gpu in tight if gpu.free < wanted_of(gpu)]
    if not tight:
        return ()
    share = min(math.floor((gpu.free - context) / gpu.usable * 100) / 100 for gpu in tight)
    if not short:
        return tuple(
            f"GPU {gpu.index} ({gpu.name}): the engine takes {_gib(wanted_of(gpu))} of {_gib(gpu.free)} that are "
            "free, "
            f"and its CUDA context some {_gib(context)} before: if it ends for lack of memory, "
            f"--set engine.gpu_memory_utilization={share:g}"
            for gpu in tight
        )
    lines, releases = [], set[str]()
    for gpu in short:
        wanted = wanted_of(gpu)
        holders = []
        for process in gpu.processes[:_NAMED_PROCESSES]:
            release = owner(process)
            releases |= {release} if release else set()
            holders.append(f"{process}{f' of your release {release}' if release else ''}")
        if more := len(gpu.processes) - len(holders):
            holders.append(f"{more} more")
        held = "; ".join(holders) or "programs that cannot be seen from here, as from a container"
        lines.append(
            f"GPU {gpu.index} ({gpu.name}): the engine takes {engine.gpu_memory_utilization:g} of "
            f"{_gib(gpu.usable)}, {_gib(wanted)}, beside some {_gib(context)} of its CUDA context, and "
            f"{_gib(gpu.free)} are free; {_gib(gpu.used)} are held by {held}"
        )
    ways = [f"tri-serve down -r {release}" for release in sorted(releases)]
    if share >= _LEAST_SHARE:
        ways.append(
            f"--set engine.gpu_memory_utilization={share:g} starts, with so much less KV cache, if the model fits"
        )
    ways.append("end what holds it, or name other GPUs in CUDA_VISIBLE_DEVICES")
    raise ResourceError("\n".join(lines), hint="; or ".join(ways))


def check_engine_shared_memory(engine: EngineSpec, folder: Path = Path("/dev/shm")) -> None:  # noqa: S108
    """Raises ResourceError if an engine of several GPUs could not share memory among its processes."""
    if engine.tensor_parallel_size == 1 or not folder.is_dir():  # vLLM does not look either if there is none
        return
    free = shutil.disk_usage(folder).free
    if free < ENGINE_SHARED_BYTES:
        raise ResourceError(
            f"{folder} has {free / _MIB:,.0f} MiB free, and an engine on {engine.tensor_parallel_size} GPUs needs "
            f"{ENGINE_SHARED_BYTES / _MIB:,.0f} MiB there",
            hint="start the container with --shm-size=1g or --ipc=host (Kubernetes: emptyDir with medium Memory)",
        )


def release_of(process: GpuProcess, environ: Mapping[str, str] = os.environ) -> str | None:
    """The release of this user whose engine ``process`` is; None for anybody else's."""
    for name in known_releases(environ):
        try:
            state = read_state(release_paths(name, environ).state)
        except FleetError:  # damaged: it says nothing
            continue
        if state is None:
            continue
        for replica in state.replicas:
            if process.pid in (replica.pid, *replica.core_pids):
                return name
    return None


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"
