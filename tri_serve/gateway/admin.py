"""The admin API of the first process: everything on its UNIX socket, metrics and status on a loopback port.

Never reached by clients: the public port knows none of these paths.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

HEAD_LIMIT = 8_192
BODY_LIMIT = 4 * 1024 * 1024
REQUEST_SECONDS = 10.0

log = logging.getLogger("tri_serve.gateway")


@dataclass(frozen=True, slots=True)
class AdminReply:
    """Status, media type and body of one answer."""

    status: int
    body: bytes
    media: str = "application/json"


AdminCall = Callable[[bytes], Awaitable[AdminReply]]


def json_reply(document: object, status: int = 200) -> AdminReply:
    """``document`` as JSON."""
    return AdminReply(status, json.dumps(document).encode() + b"\n")


class AdminServer:
    """A small HTTP/1.1 server, one request a connection. ``calls`` maps 'METHOD /path' to what answers it."""

    def __init__(self, calls: Mapping[str, AdminCall]) -> None:
        self._calls = calls

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, for asyncio.start_server."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                reply = await self._answer(reader)
                head = (
                    f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n"
                    f"content-type: {reply.media}\r\ncontent-length: {len(reply.body)}\r\n"
                    "connection: close\r\n\r\n"
                )
                writer.write(head.encode() + reply.body)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            log.info("an admin connection ended early: %s", type(error).__name__)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> AdminReply:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return json_reply({"error": f"the head exceeds {HEAD_LIMIT} bytes"}, 431)
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (x.partition(":") for x in lines[1:])
        }
        length = headers.get("content-length", "0")
        if len(words) != 3 or not length.isdecimal():
            return json_reply({"error": "this is not HTTP/1.1"}, 400)
        if int(length) > BODY_LIMIT:
            return json_reply({"error": f"the body exceeds {BODY_LIMIT} bytes"}, 413)
        body = await reader.readexactly(int(length))
        call = self._calls.get(f"{words[0]} {words[1].partition('?')[0]}")
        if call is None:
            return json_reply({"error": f"known here: {', '.join(self._calls)}"}, 404)
        return await call(body)
