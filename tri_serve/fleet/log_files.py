"""Reading the logs of a release: the last lines, and what comes after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tri_serve.errors import UsageError
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.state import FleetState, GatewayState, ReplicaState

_POLL = 0.2


@dataclass(frozen=True)
class RemoteLog:
    """A log on the disk of another node."""

    node: str
    path: Path

    def __str__(self) -> str:
        return f"{self.path} on node {self.node}"


def log_files(
    paths: ReleasePaths, name: str | None, state: FleetState | None = None
) -> tuple[dict[str, Path], dict[str, RemoteLog]]:
    """The release's logs by name, or the one that is asked for: those that can be read here, and the others.

    ``state`` says where the parts of a fleet on a cluster log. Raises UsageError if there is no such log.
    """
    found = {path.stem: path for path in sorted(paths.logs.glob("*.log"))}
    elsewhere: dict[str, RemoteLog] = {}
    parts: list[GatewayState | ReplicaState] = []
    if state is not None and state.target != "local":
        parts = [*state.gateways, *state.replicas]
    for part in parts:
        path = Path(part.log)
        if path.is_file():  # this machine is that node, or the nodes share a disk
            found[part.name] = path
        elif path.parent != paths.logs:  # it has been placed
            elsewhere[part.name] = RemoteLog(part.node, path)
    if name is None:
        return found, elsewhere
    if name not in found and name not in elsewhere:
        known = ", ".join((*found, *elsewhere)) or "none yet"
        raise UsageError(f"release {paths.release} has no log {name!r}; there are: {known}")
    return (
        {each: path for each, path in found.items() if each == name},
        {each: log for each, log in elsewhere.items() if each == name},
    )


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
