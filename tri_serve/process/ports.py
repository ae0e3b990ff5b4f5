"""TCP ports: binding a listener that is ours alone, finding a free one, and saying who holds a taken one."""

from __future__ import annotations

import errno
import ipaddress
import socket
from pathlib import Path

from tri_serve.errors import ResourceError
from tri_serve.process.strays import command_of

BACKLOG = 4_096
"""Connections that wait while no gateway accepts; Linux caps it at net.core.somaxconn (4,096 since 5.4)."""
_LISTEN = "0A"


def _address(host: str) -> tuple[socket.AddressFamily, str]:
    number = "127.0.0.1" if host == "localhost" else host
    version = ipaddress.ip_address(number).version
    return (socket.AF_INET6 if version == 6 else socket.AF_INET), number


def port_holder(port: int) -> str | None:
    """``pid N (command)`` of who listens on a TCP port, if /proc lets us see it."""
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if any(str(fd.readlink()) in inodes for fd in (process / "fd").iterdir()):
                return f"pid {process.name} ({command_of(int(process.name))[:60]})"
        except OSError:  # gone meanwhile, or another user's
            continue
    return None


def bind_listener(host: str, port: int, backlog: int = BACKLOG) -> socket.socket:
    """A listening socket that nobody shares: no SO_REUSEPORT. Raises ResourceError if it cannot be had.

    SO_REUSEADDR only lets it follow a listener whose old connections are still in TIME_WAIT.
    """
    family, address = _address(host)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        where = f"[{address}]:{port}" if family == socket.AF_INET6 else f"{address}:{port}"
        if error.errno == errno.EADDRINUSE:
            holder = port_holder(port)
            raise ResourceError(
                f"port {port} on {host} is taken" + (f" by {holder}" if holder else ""),
                hint="choose another with --set gateway.port=PORT",
            ) from error
        if error.errno == errno.EACCES:
            raise ResourceError(
                f"cannot listen on {where}: ports below 1024 need the right to bind them",
                hint="choose another with --set gateway.port=PORT",
            ) from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise ResourceError(
                f"cannot listen on {where}: this machine has no such address",
                hint="see `ip addr`; set another with --set gateway.host=ADDRESS",
            ) from error
        raise ResourceError(f"cannot listen on {where}: {error.strerror}") from error
    return listener


def port_is_free(host: str, port: int) -> bool:
    """Whether a listener could be bound there now."""
    family, address = _address(host)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True


def free_port(host: str) -> int:
    """A TCP port that nobody listens on now. Another process may take it before its user does."""
    family, address = _address(host)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
