"""What of a machine a fleet takes (memory, disk, shared memory), and whether the machine has it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tri_serve.errors import ResourceError
from tri_serve.launch.device import Device
from tri_serve.spec.models import Spec

_GIB = 2**30
ENGINE_BASE_BYTES = int(1.5 * _GIB)
"""Memory of a vLLM 0.32 CPU engine without weights and KV cache. Measured (PSS of its three processes, tiny
checkpoint): 2.54 GB with 1 GiB of KV cache, 4.68 GB with 3 GiB, so 1.46 GB and the KV cache in full."""
_WEIGHTS_FACTOR = 2.0
"""Not measured: while a CPU engine repacks 4-bit weights for its kernels, both forms may exist."""
GATEWAY_BYTES = 128 * 2**20
RAY_BYTES = 900 * 2**20
"""A private Ray 2.60 with the agents of two replicas and a gateway. Measured: 844 MB of PSS, some 90 MB of it
for each replica."""


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that new processes can take: the machine's, or what a cgroup leaves of it."""
    meminfo = dict(
        line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines() if ":" in line
    )
    available = int(meminfo["MemAvailable"].split()[0]) * 1024
    group = root / "sys/fs/cgroup"
    try:
        limit = (group / "memory.max").read_text().strip()
        current = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return available
    return available if limit == "max" else min(available, max(0, int(limit) - current))


def engine_memory(spec: Spec, device: Device, weights: int) -> int:
    """Bytes of main memory that one engine takes, estimated."""
    if device == "cuda":
        return ENGINE_BASE_BYTES
    return ENGINE_BASE_BYTES + int(weights * _WEIGHTS_FACTOR) + int(spec.engine.cpu_kv_cache_gib * _GIB)


def check_memory(
    spec: Spec,
    device: Device,
    weights: int,
    *,
    engines: int,
    available: int,
    given_back: int = 0,
    staying: int = 0,
    with_ray: bool = False,
) -> None:
    """Raises ResourceError if ``engines`` more of them do not fit into ``available`` bytes.

    ``given_back``: what the engines that they replace hold; it comes on top of what is available.
    ``staying``: engines that run already and go on; the hint counts them in. ``with_ray``: a private Ray
    starts too.
    """
    each = engine_memory(spec, device, weights)
    beside = GATEWAY_BYTES + (RAY_BYTES if with_ray else 0)
    needed = engines * each + beside
    total = available + given_back
    if needed <= total:
        return
    kv = f", {spec.engine.cpu_kv_cache_gib:g} GiB of it KV cache" if device == "cpu" else ""
    ray = f" and {RAY_BYTES / _GIB:.1f} GiB of Ray" if with_ray else ""
    fitting = max(0, (total - beside) // each)
    without_ray = with_ray and needed - RAY_BYTES <= total
    if fitting and engines > 1:
        hint = f"--set {replicas_key(spec)}={staying + fitting} fits"
    elif without_ray:
        hint = "--supervisor process fits: it does without Ray"
    else:
        hint = "stop other programs, or take a smaller checkpoint"
        hint += " or KV cache (--set engine.cpu_kv_cache_gib=0.5)" if device == "cpu" else ""
    raise ResourceError(
        f"memory: {engines} engine{'' if engines == 1 else 's'} of about {each / _GIB:.1f} GiB{kv}{ray} need "
        f"{needed / _GIB:.1f} GiB, and {total / _GIB:.1f} GiB are available"
        + (f", {given_back / _GIB:.1f} GiB of them held by what is replaced" if given_back else ""),
        hint=hint,
    )


def replicas_key(spec: Spec) -> str:
    """The key that says how many engines there may be."""
    return "fleet.replicas" if spec.fleet.autoscaling is None else "fleet.replicas.max"


@dataclass(frozen=True)
class DiskNeed:
    """What is going to be written."""

    folder: Path
    """It need not exist: its first parent that does says which disk it is."""
    nbytes: int
    purpose: str
    """For people, in the plural: ``state and logs``."""


def check_disk(folder: Path, needed: int, purpose: str) -> None:
    """Raises ResourceError if the disk of ``folder`` has too little left."""
    check_disks([DiskNeed(folder, needed, purpose)])


def check_disks(needs: Sequence[DiskNeed]) -> None:
    """Raises ResourceError if a disk has too little left for all that is going to be written to it."""
    by_disk: dict[int, list[DiskNeed]] = {}
    for need in needs:
        place = _existing(need.folder)
        if not os.access(place, os.W_OK):
            raise ResourceError(f"{place} cannot be written, and {need.purpose} go there")
        by_disk.setdefault(place.stat().st_dev, []).append(need)
    problems = [words for there in by_disk.values() if (words := _too_little(there))]
    if problems:
        raise ResourceError("\n".join(problems))


def _too_little(needs: Sequence[DiskNeed]) -> str | None:
    """What to say of one disk on which all of ``needs`` go; None if it has room."""
    place = _existing(needs[0].folder)
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return f"{place}: {error.strerror}"
    needed = sum(need.nbytes for need in needs)
    if needed <= free:
        return None
    first, *others = sorted(needs, key=lambda need: -need.nbytes)
    with_others = "".join(
        f", with {need.purpose} in {need.folder} ({need.nbytes / 2**20:,.0f} MiB)" for need in others
    )
    return (
        f"disk: {first.purpose} in {first.folder}{with_others} need {needed / 2**20:,.0f} MiB, and "
        f"{free / 2**20:,.0f} MiB are free"
    )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def check_shared_memory(folder: Path = Path("/dev/shm")) -> None:  # noqa: S108 -- not a file of ours
    """Raises ResourceError if Ray could not keep its object store anywhere.

    A small one (Docker gives 64 MiB) is no problem: Ray 2.60 then takes its temporary folder
    (``determine_plasma_store_config``), and nothing that is large for a disk goes through it here. None at
    all, or one that cannot be written, ends Ray at its start.
    """
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ResourceError(
            f"{folder} is not there or cannot be written, and Ray shares memory in it",
            hint="mount a tmpfs there, or run without Ray: --supervisor process",
        )
