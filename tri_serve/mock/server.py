"""The mock engine as a process: one loop, one listening socket, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import uvloop

from tri_serve.errors import ResourceError

from .engine import MockEngine
from .pacer import Pacer
from .settings import MockSettings
from .stats import Stats

# As many as a benchmark opens at once; the kernel caps it at net.core.somaxconn.
_BACKLOG = 4096


def run(settings: MockSettings, host: str, port: int, report: Callable[[str], None]) -> None:
    """Serve until told to stop. Raises ResourceError if the port cannot be had."""
    uvloop.run(_serve(settings, host, port, report))


async def _serve(settings: MockSettings, host: str, port: int, report: Callable[[str], None]) -> None:
    loop = asyncio.get_running_loop()
    engine = MockEngine(settings, Pacer(loop), Stats())
    try:
        server = await loop.create_server(engine.connection, host, port, backlog=_BACKLOG)
    except OSError as error:
        raise ResourceError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    report(f"mock engine: http://{host}:{server.sockets[0].getsockname()[1]}")
    await stop.wait()
    server.close()
