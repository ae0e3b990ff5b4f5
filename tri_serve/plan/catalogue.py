"""The kinds of devices that a plan knows: gpus.yaml, and the CPU of this machine."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field

from tri_serve.errors import UsageError
from tri_serve.plan.facts import Gpu

CPU = "cpu"

_MIB = 2**20
_GIGA = 1e9
_MEMORY_TOLERANCE = 0.1
"""ECC switched off gives an L4 6.7% more memory; a slice of a board (MIG, vGPU) has half of it or less."""

Words = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Figure(_Strict):
    """A number and where it is from."""

    value: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    source: Words


class Capability(_Strict):
    """A compute capability and where it is from."""

    value: Annotated[str, Field(pattern=r"^\d+\.\d$")]
    source: Words

    @property
    def pair(self) -> tuple[int, int]:
        major, minor = self.value.split(".")
        return int(major), int(minor)


class GpuEntry(_Strict):
    """One GPU, as gpus.yaml says it."""

    title: Words
    aliases: list[Words]
    device_names: Annotated[list[Words], Field(min_length=1)]
    memory_mib: Figure
    bandwidth_gb_s: Figure
    bf16_tflops: Figure
    compute_capability: Capability
    link_gb_s: Figure

    def gpu(self, name: str) -> Gpu:
        return Gpu(
            name=name,
            title=self.title,
            memory=round(self.memory_mib.value * _MIB),
            bandwidth=self.bandwidth_gb_s.value * _GIGA,
            flops=self.bf16_tflops.value * 1e12,
            compute_capability=self.compute_capability.pair,
            link=self.link_gb_s.value * _GIGA,
            sources={
                "memory": self.memory_mib.source,
                "bandwidth": self.bandwidth_gb_s.source,
                "flops": self.bf16_tflops.source,
                "compute_capability": self.compute_capability.source,
                "link": self.link_gb_s.source,
            },
        )


class CpuEntry(_Strict):
    """What is assumed of a CPU, as gpus.yaml says it."""

    title: Words
    bandwidth_gb_s_per_core: Figure
    bandwidth_gb_s_at_most: Figure
    gflops_per_core: Figure

    def gpu(self, cores: int, memory: int) -> Gpu:
        each, most = self.bandwidth_gb_s_per_core, self.bandwidth_gb_s_at_most
        bandwidth = min(cores * each.value, most.value) * _GIGA
        return Gpu(
            name=CPU,
            title=self.title,
            memory=memory,
            bandwidth=bandwidth,
            flops=cores * self.gflops_per_core.value * _GIGA,
            compute_capability=None,
            link=bandwidth,
            sources={
                "memory": "read from this machine",
                "bandwidth": f"{cores} cores; {each.source}; at most {most.value:g} GB/s: {most.source}",
                "flops": f"{cores} cores; {self.gflops_per_core.source}",
                "link": "engines of one machine exchange through its memory",
            },
        )


class Catalogue(_Strict):
    """gpus.yaml."""

    gpus: dict[str, GpuEntry]
    cpu: CpuEntry


@lru_cache(maxsize=1)
def read_catalogue() -> Catalogue:
    """gpus.yaml as it ships."""
    text = (files("tri_serve.plan") / "gpus.yaml").read_text(encoding="utf-8")
    # Both loaders are safe ones; libyaml's is ten times as fast, and not everywhere.
    return Catalogue.model_validate(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))  # noqa: S506


def load_catalogue() -> Mapping[str, Gpu]:
    """Every device by its name, ``cpu`` last; memory and cores of the CPU are read from this machine."""
    return _devices(read_catalogue())


def find_gpu(name: str) -> Gpu:
    """The device that a user calls ``name``: ``l4``, ``RTX4090``, ``a100-80gb``, ``NVIDIA A100-SXM4-80GB``.

    Raises UsageError, with the nearest name, if the catalogue has no such device.
    """
    catalogue = read_catalogue()
    named = {_plain(key): key for key in (*catalogue.gpus, CPU)}
    for key, entry in catalogue.gpus.items():
        named |= {_plain(word): key for word in (*entry.aliases, *entry.device_names)}
    key = named.get(_plain(name), "")
    if key:
        return _devices(catalogue)[key]
    close = difflib.get_close_matches(_plain(name), named, n=1, cutoff=0.4)
    raise UsageError(
        f"no GPU {name!r} in the catalogue; it has {', '.join((*catalogue.gpus, CPU))}",
        hint=f"did you mean {named[close[0]]}?" if close else None,
    )


def match_device_name(name: str, total_bytes: int) -> Gpu | None:
    """The entry for a board whose driver calls it ``name``; none if it is not in the catalogue.

    ``total_bytes`` must agree as well, so that a slice of a board is not taken for the whole of it.
    """
    for key, entry in read_catalogue().gpus.items():
        if name.strip() in entry.device_names:
            gpu = entry.gpu(key)
            return gpu if abs(total_bytes - gpu.memory) <= _MEMORY_TOLERANCE * gpu.memory else None
    return None


def machine_memory(root: Path = Path("/")) -> int:
    """Bytes of memory of this machine, or what its cgroup lets us have of it."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", (root / "proc/meminfo").read_text(), flags=re.MULTILINE)
    assert found is not None  # every Linux has the line
    total = int(found[1]) * 1024
    try:
        limit = (root / "sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total


def _devices(catalogue: Catalogue) -> dict[str, Gpu]:
    devices = {name: entry.gpu(name) for name, entry in catalogue.gpus.items()}
    devices[CPU] = catalogue.cpu.gpu(len(os.sched_getaffinity(0)), machine_memory())
    return devices


def _plain(name: str) -> str:
    """Letters and digits, so that ``RTX 4090``, ``rtx-4090`` and ``GeForce RTX4090`` are one name."""
    return re.sub(r"nvidia|geforce|[^a-z0-9]", "", name.lower())
