"""One metrics page over HTTP, on a socket of the caller's kind: bounded in time and size."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

PAGE_LIMIT = 16 << 20
"""Bytes. vLLM's page of one rank has 100 to 300 kB; 16 ranks in one page are far under this."""
_PIECE = 64 * 1024

Connect = Callable[[tuple[str, int], float], socket.socket]
"""``socket.create_connection``, or gevent's: an address, and a timeout in seconds."""


def fetch_page(url: str, connect: Connect = socket.create_connection, seconds: float = 5.0) -> bytes:
    """The body of an ``http://`` page. Raises OSError, in words for the user, at whatever prevents it."""
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port or 80
    if parts.scheme != "http" or not host:
        raise OSError(f"{url} is no http address")
    deadline = time.monotonic() + seconds
    connection = connect((host, port), seconds)
    with connection:
        connection.settimeout(seconds)
        named = f"[{host}]" if ":" in host else host
        path = parts.path or "/metrics"
        head = (
            f"GET {path} HTTP/1.1\r\nHost: {named}:{port}\r\nAccept: text/plain\r\nConnection: close\r\n\r\n"
        )
        connection.sendall(head.encode("ascii"))
        response = http.client.HTTPResponse(connection, method="GET")
        try:
            response.begin()
            if response.status != 200:
                raise OSError(f"status {response.status}")
            return _body(response, deadline)
        except http.client.HTTPException as error:
            raise OSError(f"no whole HTTP answer ({type(error).__name__})") from error
        finally:
            response.close()


def _body(response: http.client.HTTPResponse, deadline: float) -> bytes:
    pieces, size = [], 0
    while piece := response.read1(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > PAGE_LIMIT:
            raise OSError(f"more than {PAGE_LIMIT >> 20} MiB")
        if time.monotonic() > deadline:
            raise TimeoutError("it did not end in time")
    if response.length:
        raise OSError("it was cut")
    return b"".join(pieces)
