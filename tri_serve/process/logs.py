"""Log files of children: opening, the last lines, and keeping them bounded."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from tri_serve.errors import ResourceError

TAIL_BYTES = 65_536
"""What is read from the end of a log to show its last lines."""


def open_log(log: Path) -> int:
    """Open for appending, private to the user; returns a descriptor.

    A full disk must not keep a fleet from healing: then what would be logged is lost.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        raise ResourceError(f"cannot write the log {log}: {error.strerror}") from error


def size_of(log: Path) -> int:
    """Bytes; 0 if there is no such file."""
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0


def tail(log: Path, lines: int, *, since: int = 0) -> tuple[str, ...]:
    """The last non-empty ``lines`` lines written after byte ``since``; none if there is no such file."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            # A log shorter than `since` has been rotated: everything in it is newer.
            begin = max(since if since <= size else 0, size - TAIL_BYTES)
            file.seek(begin)
            text = file.read(TAIL_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return ()
    found = [line.rstrip() for line in text.splitlines() if line.strip()]
    return tuple(found[-lines:]) if lines > 0 else ()


def rotate(log: Path, max_bytes: int) -> bool:
    """Move the last ``max_bytes`` of a larger log to ``<log>.1`` and empty it; True if it was done.

    Copies and truncates, since the child keeps the file open: it appends, so its next line starts the file
    anew. Lines written between copy and truncation are lost. If the disk is full, the copy is given up.
    """
    if size_of(log) <= max_bytes:
        return False
    old = log.with_name(log.name + ".1")
    try:
        with log.open("rb") as source, old.open("wb") as target:
            source.seek(-max_bytes, os.SEEK_END)
            shutil.copyfileobj(source, target)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        old.unlink(missing_ok=True)
    os.truncate(log, 0)
    return True
