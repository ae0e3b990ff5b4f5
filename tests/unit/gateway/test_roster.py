"""How the roster looks whether a replica answers."""

from __future__ import annotations

import asyncio

import pytest

from tri_serve.gateway.probes import health_status


@pytest.mark.parametrize("answer", [b"x" * 200_000, b"\xff\xfe\r\n", b"HTTP/1.1 ok\r\n", b""])
def test_whatever_is_no_answer_is_an_os_error(answer: bytes) -> None:
    async def ask() -> None:
        async def reply(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            writer.close()

        async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
            await health_status(*server.sockets[0].getsockname())

    with pytest.raises(OSError, match=r"not HTTP|reset"):
        asyncio.run(ask())
