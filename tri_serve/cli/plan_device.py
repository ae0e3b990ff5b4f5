"""Which device a plan is for: the one that ``--gpu`` names, or this machine's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tri_serve.errors import ResourceError
from tri_serve.plan.catalogue import CPU, find_gpu
from tri_serve.plan.facts import Gpu, PlanDevice

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

    ``auto``: this machine's GPUs; without one the CPU, or for a spec that says ``engine.device: cuda`` an L4 of the
    catalogue, which is said. Raises UsageError for a device that the catalogue does not have, and ResourceError if
    this machine's GPUs cannot be read, do not tell their memory, or are fewer than one engine takes.
    """
    if name != AUTO:
        return _from_catalogue(selection, find_gpu(name))
    loaded = selection.load(without_source=True)
    readings = () if loaded.spec.engine.device == CPU else _gpus_here()
    if readings:
        from tri_serve.launch.gpus import plan_device_of

        _require_memory(readings)
        kind = _plan_device(readings, 1).gpu.name
        loaded = replace(selection, gpu=kind).load(without_source=True)
        return Chosen(loaded, plan_device_of(loaded.spec, readings))
    if loaded.spec.engine.device == "cuda":
        gpu = find_gpu(STAND_IN)
        note = f"no NVIDIA GPU is here; this is a plan for an {gpu.title}. --gpu NAME plans for another"
        return replace(_from_catalogue(selection, gpu), notes=(note,))
    return Chosen(loaded, PlanDevice(find_gpu(CPU)))


def selection_for(selection: SpecSelection, name: str) -> SpecSelection:
    """The selection with the preset's settings for device ``name``; ``auto``: for this machine's, if it has a GPU.

    Raises UsageError for a device that the catalogue does not have.
    """
    if name != AUTO:
        return replace(selection, gpu=find_gpu(name).name)
    readings = _gpus_here()
    return replace(selection, gpu=_plan_device(readings, 1).gpu.name) if readings else selection


def _from_catalogue(selection: SpecSelection, gpu: Gpu) -> Chosen:
    loaded = replace(selection, gpu=gpu.name).load(without_source=True)
    return Chosen(loaded, PlanDevice(gpu, count=loaded.spec.engine.tensor_parallel_size))


def _gpus_here() -> tuple[GpuReading, ...]:
    from tri_serve.launch.gpus import devices_here

    return devices_here()


def _require_memory(readings: tuple[GpuReading, ...]) -> None:
    unknown = next((gpu for gpu in readings if not gpu.memory_known), None)
    if unknown is not None:
        raise ResourceError(
            f"GPU {unknown.index} ({unknown.name}): its driver does not tell how much memory it has, as where the "
            "CPU shares it: there is nothing to plan with",
            hint="tri-serve up starts without a plan; --gpu l4 plans for another GPU",
        )


def _plan_device(readings: tuple[GpuReading, ...], taken: int) -> PlanDevice:
    from tri_serve.launch.gpus import plan_device

    return plan_device(readings, taken)
