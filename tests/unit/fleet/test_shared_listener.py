"""Handing a listening socket to another process, within one."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from pathlib import Path

import pytest

from tri_serve.errors import FleetError
from tri_serve.fleet.shared_listener import SharedListener, take_listener


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


async def take(path: Path) -> socket.socket:
    return await asyncio.to_thread(take_listener, str(path))


def test_whoever_asks_gets_the_present_socket_and_passes_it_on_to_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        with listening() as first, listening() as second:
            shared = SharedListener(tmp_path / "door", first)
            shared.open()
            for listener in (first, second):
                shared.listener = listener
                with await take(tmp_path / "door") as copy:
                    assert copy.getsockname() == listener.getsockname()
                    assert not copy.get_inheritable()
            await shared.close()

    asyncio.run(scenario())


def test_a_closed_socket_is_no_answer_and_no_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        closed = listening()
        closed.close()
        shared = SharedListener(tmp_path / "door", closed)
        shared.open()
        with pytest.raises(FleetError, match="closed"):
            await take(tmp_path / "door")
        with listening() as another:
            shared.listener = another
            (await take(tmp_path / "door")).close()
        await shared.close()
        with pytest.raises(FleetError):
            await take(tmp_path / "door")

    asyncio.run(scenario())


def test_it_is_handed_out_again_when_there_are_descriptors_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        with listening() as listener:
            shared = SharedListener(tmp_path / "door", listener)
            shared.open()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with socket.socket(socket.AF_UNIX) as asker:
                taken: list[int] = []
                try:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (asker.fileno() + 4, hard))
                    with pytest.raises(OSError, match="Too many"):
                        while True:
                            taken.append(os.dup(asker.fileno()))
                    asker.connect(str(tmp_path / "door"))
                    await asyncio.sleep(0.05)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                    for descriptor in taken:
                        os.close(descriptor)
            (await take(tmp_path / "door")).close()
            await shared.close()

    asyncio.run(scenario())
