"""One small HTTP request to an engine: a connection of its own, closed after the answer."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

_MOST_BYTES = 1_048_576


@dataclass(frozen=True)
class Answer:
    """Status and body of an HTTP response."""

    status: int
    body: bytes = field(repr=False)


class NoAnswerError(Exception):
    """The engine refused the connection, closed it early, or did not speak HTTP."""


async def ask(
    host: str, port: int, path: str, *, seconds: float, body: object = None, key: str | None = None
) -> Answer:
    """GET ``path``, or POST ``body`` as JSON to it. Raises NoAnswerError, and TimeoutError after ``seconds``."""
    payload = b"" if body is None else json.dumps(body).encode()
    head = [
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
        f"Host: {host}:{port}",
        "Connection: close",
    ]
    if body is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(payload)}"]
    if key is not None:
        head.append(f"Authorization: Bearer {key}")
    request = "\r\n".join([*head, "", ""]).encode() + payload
    async with asyncio.timeout(seconds):
        try:
            return await _exchange(host, port, request)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            if isinstance(error, TimeoutError):  # the kernel's own, while connecting
                raise
            raise NoAnswerError(str(error) or type(error).__name__) from error


async def _exchange(host: str, port: int, request: bytes) -> Answer:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        # "Connection: close": the body ends where the connection does, however it was framed.
        return Answer(status, await reader.read(_MOST_BYTES))
    finally:
        writer.close()
