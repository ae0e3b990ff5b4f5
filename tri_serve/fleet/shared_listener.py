"""Handing a listening socket to another process of the same user, over a UNIX socket (SCM_RIGHTS, unix(7)).

Whoever holds a copy keeps the port open: connections wait in the queue while no gateway accepts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from pathlib import Path

from tri_serve.errors import FleetError
from tri_serve.fleet.background import go_on

log = logging.getLogger(__name__)

_SECONDS = 10.0
_AGAIN_SECONDS = 0.2


class SharedListener:
    """Gives the present listening socket to everybody who connects to ``path``."""

    def __init__(self, path: Path, listener: socket.socket) -> None:
        self.listener = listener
        self._path = path
        self._door: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin; only the user can connect, since the folder is the user's alone."""
        self._path.unlink(missing_ok=True)
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(self._path))
        self._path.chmod(0o600)
        self._door.listen()
        self._door.setblocking(False)
        self._task = go_on(self._serve(self._door), "listener")

    async def close(self) -> None:
        """Hand no more out."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._door is not None:
            self._door.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, door: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(door)
            except OSError as error:  # no descriptor is left: another may be had later
                log.warning("the listening socket cannot be handed out: %s", error.strerror)
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            with connection, contextlib.suppress(OSError):  # the asker left, or the socket is closed by now
                connection.setblocking(True)
                socket.send_fds(connection, [b"1"], [self.listener.fileno()])


def take_listener(path: str) -> socket.socket:
    """The listening socket that is handed out at ``path``. Raises FleetError if there is none."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_SECONDS)
            connection.connect(path)
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    except OSError as error:
        raise FleetError(f"no listening socket is to be had at {path}: {error}") from error
    if not descriptors:
        raise FleetError(f"no listening socket is to be had at {path}: the supervisor has closed it")
    listener = socket.socket(fileno=descriptors[0])
    listener.set_inheritable(False)  # else whatever this process starts could hold the port open
    listener.setblocking(False)
    return listener
