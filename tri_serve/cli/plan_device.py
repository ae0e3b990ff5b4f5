"""Which device a plan is for: the one that ``--gpu`` names, or this machine's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tri_serve.errors import UsageError
from tri_serve.plan.catalogue import CPU, find_gpu, load_catalogue, match_device_name
from tri_serve.plan.facts import PlanDevice

if TYPE_CHECKING:
    from tri_serve.cli.options import SpecSelection
    from tri_serve.launch.gpus import GpuReading
    from tri_serve.spec.load import LoadedSpec

AUTO = "auto"
STAND_IN = "l4"
"""Planned for where a spec wants a GPU and the machine has none: the smallest common one that takes Tri-21B."""


@dataclass(frozen=True)
class Chosen:
    """A spec and the device to plan it for."""

    loaded: LoadedSpec
    device: PlanDevice
    notes: tuple[str, ...] = ()
    """What the user should know of the choice."""


def choose(selection: SpecSelection, name: str) -> Chosen:
    """The spec with the preset's settings for device ``name``, and the device.

    ``auto``: this machine's GPU; without one the CPU, or for a spec that says ``engine.device: cuda`` an L4 of the
    catalogue, which is said. Raises UsageError for a device that the catalogue does not have.
    """
    if name != AUTO:
        gpu = find_gpu(name)
        return _chosen(replace(selection, gpu=gpu.name), PlanDevice(gpu))
    loaded = selection.load(without_source=True)
    if loaded.spec.engine.device != CPU and (seen := device_here()) is not None:
        return _chosen(replace(selection, gpu=seen.gpu.name), seen)
    if loaded.spec.engine.device == "cuda":
        gpu = find_gpu(STAND_IN)
        note = f"no NVIDIA GPU is here; this is a plan for an {gpu.title}. --gpu NAME plans for another"
        return _chosen(replace(selection, gpu=gpu.name), PlanDevice(gpu), (note,))
    return Chosen(loaded, PlanDevice(find_gpu(CPU)))


def _chosen(selection: SpecSelection, device: PlanDevice, notes: tuple[str, ...] = ()) -> Chosen:
    loaded = selection.load(without_source=True)
    count = max(device.count, loaded.spec.engine.tensor_parallel_size)
    if device.seen == "catalogue":
        device = replace(device, count=count)
    return Chosen(loaded, device, notes)


def selection_for(selection: SpecSelection, name: str) -> SpecSelection:
    """The selection with the preset's settings for device ``name``; ``auto``: for this machine's, if it has a GPU.

    Raises UsageError for a device that the catalogue does not have.
    """
    if name != AUTO:
        return replace(selection, gpu=find_gpu(name).name)
    seen = device_here()
    return selection if seen is None else replace(selection, gpu=seen.gpu.name)


def device_here() -> PlanDevice | None:
    """The GPUs of this machine, as their driver tells of them now; None if there are none.

    Raises ResourceError if they cannot be read, and UsageError if the catalogue does not have them.
    """
    from tri_serve.launch.gpus import devices_here

    readings = devices_here()
    return device_of(readings) if readings else None


def device_of(readings: tuple[GpuReading, ...]) -> PlanDevice:
    """What a plan knows of GPUs that were read: all of the first one's kind, the fullest of them for its memory."""
    first = readings[0]
    gpu = match_device_name(first.name, first.total)
    if gpu is None:
        known = ", ".join(name for name in load_catalogue() if name != CPU)
        what = f"{'a slice of ' if first.mig else ''}{first.name} ({first.total / 2**30:.0f} GiB)"
        raise UsageError(
            f"this machine has {what}, which is not in the catalogue",
            hint=f"plan for one that is like it: --gpu {known}",
        )
    same = [reading for reading in readings if reading.name == first.name]
    return PlanDevice(
        gpu,
        count=len(same),
        total=min(reading.usable for reading in same),
        free=min(reading.free for reading in same),
        driver_cuda=first.driver_cuda,
        driver=first.driver,
        seen="this machine",
    )
