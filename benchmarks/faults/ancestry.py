"""Which processes of an earlier life are still there. Pure but for reading /proc."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from tri_serve.process.guard import stat_fields
from tri_serve.process.strays import ProcessIdentity


def parents_of(pids: Iterable[int]) -> dict[int, int]:
    """Pid → its parent's, of those that run."""
    found = {}
    for pid in pids:
        fields = stat_fields(pid)
        if fields is not None:
            found[pid] = int(fields[1])
    return found


def left_over(
    earlier: Collection[ProcessIdentity],
    now: Collection[ProcessIdentity],
    parents: Mapping[int, int],
    supervisor: int,
    parts: Collection[int],
) -> list[int]:
    """Pids of ``earlier`` that still run and serve no part of today's fleet.

    What the supervisor runs directly is the top of a tree; a tree with one of today's ``parts`` in it is in use.
    ``parents`` is of ``now``.
    """
    used = {_top(pid, parents, supervisor) for pid in parts}
    same = set(earlier) & set(now)
    return sorted(
        process.pid
        for process in same
        if process.pid != supervisor and _top(process.pid, parents, supervisor) not in used
    )


def _top(pid: int, parents: Mapping[int, int], supervisor: int) -> int:
    """The last process on the way up from ``pid`` that is below the supervisor; or below nothing of ours."""
    while (above := parents.get(pid)) is not None and above != supervisor and above in parents:
        pid = above
    return pid
