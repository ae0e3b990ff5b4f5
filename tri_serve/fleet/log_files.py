"""Reading the logs of a release: the last lines, and what comes after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tri_serve.errors import UsageError
from tri_serve.fleet.release import ReleasePaths

_POLL = 0.2


def log_files(paths: ReleasePaths, name: str | None) -> dict[str, Path]:
    """The release's logs by name, or the one that is asked for. Raises UsageError if it is not there."""
    found = {path.stem: path for path in sorted(paths.logs.glob("*.log"))}
    if name is None:
        return found
    if name not in found:
        known = ", ".join(found) or "none yet"
        raise UsageError(f"release {paths.release} has no log {name!r}; there are: {known}")
    return {name: found[name]}


def last_lines(path: Path, count: int) -> tuple[list[str], int]:
    """The last lines of a file, and the offset after them."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        block, begin = b"", size
        while begin > 0 and block.count(b"\n") <= count:
            step = min(65_536, begin)
            begin -= step
            file.seek(begin)
            block = file.read(step) + block
    lines = block.decode(errors="replace").splitlines()
    return (lines[-count:] if count else []), size


def follow(
    files: dict[str, Path], offsets: dict[str, int], going_on: Callable[[], bool]
) -> Iterator[tuple[str, str]]:
    """(name, line) as lines are written; a log that was emptied by rotation is read from its start.

    Ends when ``going_on`` says so and nothing is left to read.
    """
    held = dict.fromkeys(files, b"")
    while True:
        last_round = not going_on()
        for name, path in files.items():
            try:
                with path.open("rb") as file:
                    if file.seek(0, 2) < offsets[name]:
                        offsets[name], held[name] = 0, b""
                    file.seek(offsets[name])
                    data = file.read()
            except FileNotFoundError:
                continue
            offsets[name] += len(data)
            *lines, held[name] = (held[name] + data).split(b"\n")
            for line in lines:
                yield name, line.decode(errors="replace")
        if last_round:
            return
        time.sleep(_POLL)
