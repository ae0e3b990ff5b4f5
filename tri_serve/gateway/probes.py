"""What the first process asks an engine over HTTP: whether it is well, and its metrics page."""

from __future__ import annotations

import asyncio

from tri_serve.gateway.framing import Body, ChunkedBody, CloseBody, FramingError, LengthBody
from tri_serve.gateway.relay import HEAD_LIMIT, parse_head

# vLLM's page has up to 300 kB for one rank; more ranks have more lines.
PAGE_LIMIT = 4 * 1024 * 1024
_READ_BYTES = 65_536


async def health_status(host: str, port: int) -> int:
    """The HTTP status of ``/health``. Raises OSError when there is no HTTP answer."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(_request("/health", host))
        parts = (await reader.readline()).split(None, 2)
    except ValueError as error:  # a line without end
        raise OSError("the answer to /health is not HTTP") from error
    finally:
        writer.close()
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
        raise OSError("the answer to /health is not HTTP")
    return int(parts[1])


async def metrics_page(host: str, port: int, limit: int = PAGE_LIMIT) -> bytes | None:
    """The body of ``/metrics``; None if the engine has no such page.

    Raises OSError when there is no whole HTTP answer, or one of more than ``limit`` bytes.
    """
    reader, writer = await asyncio.open_connection(host, port, limit=HEAD_LIMIT)
    try:
        writer.write(_request("/metrics", host))
        head = parse_head(await reader.readuntil(b"\r\n\r\n"))
        if head.status != 200:
            return None
        body: Body = CloseBody()
        if head.chunked:
            body = ChunkedBody()
        elif head.length is not None:
            body = LengthBody(head.length)
        parts: list[bytes] = []
        size = 0
        while not body.complete:
            data = await reader.read(_READ_BYTES)
            if not data:
                body.finish()
                break
            part = body.feed(data)
            size += len(part)
            if size > limit:
                raise OSError(f"/metrics has more than {limit} bytes")
            parts.append(part)
    except (FramingError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise OSError(f"the answer to /metrics is not HTTP: {error}") from error
    else:
        return b"".join(parts)
    finally:
        writer.transport.abort()


def _request(path: str, host: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode()
