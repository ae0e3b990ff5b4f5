"""Which process holds the fleet's end of which connection, as the kernel knows it (proc(5), /proc/net/tcp)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

_ESTABLISHED = "01"
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def peers_by_inode(lines: Iterable[str], port: int) -> dict[int, int]:
    """Socket inode → the peer's port, of the established connections whose own end is ``port``.

    ``lines`` are those of /proc/net/tcp.
    """
    found = {}
    for line in lines:
        fields = line.split()
        if len(fields) < 10 or fields[3] != _ESTABLISHED:
            continue
        if int(fields[1].rpartition(":")[2], 16) == port:
            found[int(fields[9])] = int(fields[2].rpartition(":")[2], 16)
    return found


def client_ports_of(pid: int, port: int) -> frozenset[int]:
    """Ports of the clients whose connections to ``port`` process ``pid`` has accepted; none if it is gone."""
    inodes = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                target = os.readlink(entry)  # noqa: PTH115 -- "socket:[…]" is no path
                if target.startswith("socket:["):
                    inodes.add(int(target[len("socket:[") : -1]))
    peers: dict[int, int] = {}
    for table in _TABLES:
        with contextlib.suppress(FileNotFoundError):
            peers |= peers_by_inode(table.read_text().splitlines(), port)
    return frozenset(peer for inode, peer in peers.items() if inode in inodes)
