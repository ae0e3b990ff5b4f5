"""The GPUs of this machine as their driver tells of them now: memory, what holds it, what the driver can run.

NVML is asked first, by NVIDIA's own bindings, and nvidia-smi where they fail. Nothing is set, and no GPU memory is
taken: NVML makes no CUDA context.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tri_serve.errors import ResourceError
from tri_serve.launch.device import visible_gpus
from tri_serve.plan.catalogue import match_device_name
from tri_serve.plan.facts import Gpu, PlanDevice
from tri_serve.spec.models import Spec


@dataclass(frozen=True)
class GpuProcess:
    """A program that holds memory of a GPU."""

    pid: int
    """As the machine counts; another number than in a container."""
    used: int | None
    """Bytes; None if the driver does not tell, as for another user's."""
    name: str
    """Its program; empty if the driver does not tell."""

    def __str__(self) -> str:
        amount = "" if self.used is None else f", {self.used / 2**20:,.0f} MiB"
        return f"pid {self.pid}{f' ({self.name})' if self.name else ''}{amount}"


@dataclass(frozen=True)
class GpuReading:
    """One GPU, or one MIG slice of it, at one time."""

    index: int
    """By PCI bus, as nvidia-smi counts; a slice has its GPU's."""
    uuid: str
    name: str
    """As the driver says it: ``NVIDIA L4``."""
    total: int
    """Bytes on the board, those included that the driver keeps for itself; 0: it does not tell, as of memory that
    is shared with the CPU, and nothing is known of what is free either."""
    reserved: int
    """Bytes that the driver keeps for itself; 0 where it does not tell (before driver 510)."""
    free: int
    """Bytes that nobody holds."""
    compute_capability: tuple[int, int]
    driver: str
    """The driver's version: ``580.65.06``."""
    driver_cuda: tuple[int, int] | None
    """The newest CUDA that it runs; None if it could not be read."""
    mig: bool = False
    """Whether it is a slice."""
    processes: tuple[GpuProcess, ...] = ()
    """Who holds memory, largest first. A container may see none of the machine's."""

    @property
    def memory_known(self) -> bool:
        """Whether the driver tells how much memory there is."""
        return self.total > 0

    @property
    def usable(self) -> int:
        """Bytes that programs can share: what CUDA calls the device's total memory."""
        return self.total - self.reserved

    @property
    def used(self) -> int:
        """Bytes that programs hold."""
        return max(0, self.usable - self.free)


class UnreadableError(Exception):
    """A way of reading GPUs does not work here. Caught within ``launch``; says why in one line."""


Read = Callable[[], Sequence[GpuReading]]


def devices_here(
    environ: Mapping[str, str] = os.environ,
    *,
    root: Path = Path("/"),
    readers: Sequence[Read] | None = None,
) -> tuple[GpuReading, ...]:
    """The GPUs that engines may use here, in CUDA_VISIBLE_DEVICES' order; empty on a machine without.

    ``root`` is where the file system starts; ``readers`` are asked in turn until one answers. Raises ResourceError
    if there is a driver and none of them can tell of its GPUs.
    """
    if not visible_gpus(environ, root):
        return ()
    reasons: list[str] = []
    for read in _readers() if readers is None else readers:
        try:
            return choose(read(), environ.get("CUDA_VISIBLE_DEVICES"))
        except UnreadableError as error:
            reasons.append(str(error))
    raise ResourceError(
        f"an NVIDIA driver is here, and its GPUs cannot be read: {'; '.join(reasons)}",
        hint="nvidia-smi must work for you here; after an update of the driver restart the machine, and give a "
        "container its GPUs with --gpus all",
    )


def choose(found: Sequence[GpuReading], named: str | None) -> tuple[GpuReading, ...]:
    """Those of ``found`` that CUDA_VISIBLE_DEVICES (``named``; None: not set) lets programs use, in its order.

    Read as CUDA reads it: numbers, or UUIDs shortened at will, and nothing after the first that stands for none.
    """
    if named is None:
        return tuple(found)
    chosen: list[GpuReading] = []
    for word in map(str.strip, named.split(",")):
        if word.isdecimal():
            fitting = [gpu for gpu in found if gpu.index == int(word)][
                :1
            ]  # of a sliced GPU CUDA takes the first
        else:
            fitting = [gpu for gpu in found if word and gpu.uuid.startswith(word)]
        if len(fitting) != 1 or fitting[0] in chosen:
            break
        chosen += fitting
    return tuple(chosen)


def with_processes(gpu: GpuReading, processes: Sequence[GpuProcess]) -> GpuReading:
    """``gpu`` with who holds its memory, largest first; a program that holds it in two ways counts once."""
    by_pid: dict[int, GpuProcess] = {}
    for process in processes:
        known = by_pid.get(process.pid)
        if known is None or (process.used or 0) > (known.used or 0):
            by_pid[process.pid] = process
    ordered = sorted(by_pid.values(), key=lambda process: (-(process.used or 0), process.pid))
    return replace(gpu, processes=tuple(ordered))


def plan_device(gpus: Sequence[GpuReading], taken: int) -> PlanDevice:
    """What a plan is made for whose engines take the first ``taken`` of ``gpus``: the least of those' memory, total
    and free. Its count is of all that are there.

    A board that the catalogue does not know, a slice among them, is planned with its own memory and compute
    capability; its bandwidth and arithmetic are given as 0, which stands for unknown: nothing can be said of speed.
    So is memory that the driver does not tell of.
    Raises ResourceError if there are fewer.
    """
    if not gpus:
        raise ResourceError("no NVIDIA GPU is visible here", hint="name the one to plan for: --gpu l4")
    if taken > len(gpus):
        raise ResourceError(f"{taken} GPUs are asked for, and {len(gpus)} visible here")
    used = gpus[:taken]
    weakest = min(used, key=lambda gpu: gpu.usable)
    known = None if weakest.mig else match_device_name(weakest.name, weakest.total)
    return PlanDevice(
        gpu=known or _unknown(weakest),
        count=len(gpus),
        total=weakest.usable,
        free=min(gpu.free for gpu in used),
        driver_cuda=weakest.driver_cuda,
        driver=weakest.driver,
        seen="this machine",
    )


def plan_device_of(spec: Spec, gpus: Sequence[GpuReading]) -> PlanDevice:
    """As ``plan_device``, for as many of ``gpus`` as the fleet of ``spec`` comes to take, all if they are too few.

    Raises ResourceError if there are fewer than one engine takes.
    """
    each = spec.engine.tensor_parallel_size
    return plan_device(gpus, max(each, min(len(gpus), spec.fleet.most_replicas * each)))


def _unknown(gpu: GpuReading) -> Gpu:
    here, unknown = "read from this machine", "unknown: the catalogue has no such board"
    return Gpu(
        name=re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-"),
        title=gpu.name,
        memory=gpu.total,
        bandwidth=0.0,
        flops=0.0,
        compute_capability=gpu.compute_capability,
        link=None,
        sources={
            "memory": here,
            "compute_capability": here,
            "bandwidth": unknown,
            "flops": unknown,
            "link": unknown,
        },
    )


def _readers() -> tuple[Read, ...]:
    from tri_serve.launch.nvidia_smi import read_nvidia_smi
    from tri_serve.launch.nvml import read_nvml

    return read_nvml, read_nvidia_smi
