"""The processes of a private Ray, as the machine shows them."""

from __future__ import annotations

from tri_serve.process.child import GUARD
from tri_serve.process.guard import descendants, stat_fields
from tri_serve.process.strays import ProcessIdentity, command_of, identify

_OWN_PROCESSES = ("gcs_server", "raylet")


def processes_of_ray(head_pid: int) -> dict[int, int]:
    """The head and everything below it but guards and what they guard: pid → start ticks."""
    found: dict[int, int] = {}
    children: dict[int, list[ProcessIdentity]] = {}
    for pid, ticks in descendants(head_pid).items():
        fields = stat_fields(pid)
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(ProcessIdentity(pid, ticks))
    queue = list(children.get(head_pid, ()))
    while queue:
        process = queue.pop()
        if GUARD in command_of(process.pid):
            continue
        found[process.pid] = process.ticks
        queue.extend(children.get(process.pid, ()))
    head = identify(head_pid)
    return found | ({head_pid: head.ticks} if head is not None else {})


def own_processes(root: int) -> dict[str, ProcessIdentity]:
    """Ray's own processes below ``root`` by name: those without which it is dead.

    Oldest first: a raylet that starts a worker is, for a moment, there twice.
    """
    found: dict[str, ProcessIdentity] = {}
    for pid, ticks in sorted(descendants(root).items(), key=lambda process: process[1]):
        program = command_of(pid).split(" ", 1)[0].rpartition("/")[2]
        if program in _OWN_PROCESSES:
            found.setdefault(program, ProcessIdentity(pid, ticks))
    return found
