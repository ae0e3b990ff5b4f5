"""How long the kernel has held this process's control groups back for having used up their CPU quota."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_UNIT_SECONDS = {"throttled_usec": 1e-6, "throttled_time": 1e-9}
"""``cpu.stat`` of cgroup v2 counts in µs, that of v1 in ns (kernel: admin-guide/cgroup-v2, scheduler/sched-bwc)."""


@dataclass(frozen=True, slots=True)
class Throttled:
    """Since the groups were made."""

    periods: int
    """Scheduler periods in which somebody was held back."""
    seconds: float
    """Summed over the group's threads or CPUs: can be more than the time that passed."""


def throttling_files(root: Path = Path("/")) -> tuple[Path, ...]:
    """The ``cpu.stat`` of each group that this process is in, its own and those above as far as they can be seen.

    A quota of any of them holds the process back. Inside a container the path in ``/proc/self/cgroup`` may be one
    of the host that is not here; then the mounted top is the container's own group.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ()
    found: dict[Path, None] = {}
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        options = set(kind[2].split(","))
        if kind[0] == "cgroup" and "cpu" not in options:
            continue
        top = root / fields[4].lstrip("/")
        folder = top / _path_of(groups, version=1 if kind[0] == "cgroup" else 2)
        for place in (folder, *folder.parents):
            if not place.is_relative_to(top):
                break
            if _reads(place / "cpu.stat"):
                found[place / "cpu.stat"] = None
    return tuple(found)


def _path_of(groups: list[str], version: int) -> str:
    for line in groups:
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if (version == 2 and number == "0") or (version == 1 and "cpu" in controllers.split(",")):
            return path.strip("/")
    return ""


def _reads(file: Path) -> bool:
    return read_throttled((file,)) is not None


def read_throttled(files: tuple[Path, ...]) -> Throttled | None:
    """The counts of all ``files`` added up; None where none of them tells."""
    periods, seconds, told = 0, 0.0, False
    for file in files:
        try:
            words = [line.split() for line in file.read_text().splitlines()]
            stat = {line[0]: int(line[1]) for line in words if len(line) == 2}
        except (OSError, ValueError):
            continue
        for name, unit in _UNIT_SECONDS.items():
            if name in stat:
                told = True
                periods += stat.get("nr_throttled", 0)
                seconds += stat[name] * unit
    return Throttled(periods, seconds) if told else None
