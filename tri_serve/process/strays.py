"""Finding what an earlier life left behind: processes that carry a marker in their environment.

Guards make strays all but impossible; a guard that is killed together with its parent leaves them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tri_serve.process.guard import descendants, signal_exactly, start_ticks, stat_fields

MARKER = "TRI_SERVE_CHILD"
"""Environment variable of every child. Its value is a token; a child's children extend it with ``.more``."""


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, told apart from a later one with the same pid by its start (clock ticks since boot)."""

    pid: int
    ticks: int


def identify(pid: int) -> ProcessIdentity | None:
    """Who has this pid now; None if nobody, or only a zombie."""
    fields = stat_fields(pid)
    if fields is None or fields[0] in (b"Z", b"X"):
        return None
    return ProcessIdentity(pid, start_ticks(fields))


def is_alive(process: ProcessIdentity) -> bool:
    """Whether this very process still runs."""
    return identify(process.pid) == process


def command_of(pid: int) -> str:
    """A process's command line for people; its name if it has none; empty if it is gone."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace")
        return " ".join((words.strip() or name).split())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def find_strays(token: str) -> tuple[ProcessIdentity, ...]:
    """Processes marked with ``token`` or an extension of it, and all below them; never the caller itself."""
    exact = f"{MARKER}={token}".encode()
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in (os.getpid(), 1):
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if not any(v == exact or v.startswith(exact + b".") for v in variables):
            continue
        identity = identify(int(entry.name))
        if identity is not None:
            found[identity.pid] = identity.ticks
            found.update(descendants(identity.pid))
    found.pop(os.getpid(), None)
    return tuple(ProcessIdentity(pid, ticks) for pid, ticks in sorted(found.items()))


async def sweep(token: str, *, grace: float = 2.0, patience: float = 10.0) -> tuple[int, ...]:
    """TERM, then after ``grace`` seconds KILL, every process of ``token``; returns the pids found.

    Gives up on processes that a KILL does not end within ``patience`` seconds.
    """
    seen: set[int] = set()
    number, start = signal.SIGTERM, time.monotonic()
    while strays := await asyncio.to_thread(find_strays, token):
        elapsed = time.monotonic() - start
        if elapsed > grace:
            number = signal.SIGKILL
        if elapsed > grace + patience:
            break
        for stray in strays:
            # One TERM is enough; KILL may be repeated.
            if number == signal.SIGKILL or stray.pid not in seen:
                signal_exactly(stray.pid, stray.ticks, number)
            seen.add(stray.pid)
        await asyncio.sleep(0.05)
    return tuple(sorted(seen))
