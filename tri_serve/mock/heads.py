"""Response heads as uvicorn writes them: date and server first, then the application's own headers."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus

CHUNKED = b"transfer-encoding: chunked\r\n"


class Heads:
    """Renders heads; the date is formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._date = b""

    def sized(self, status: int, content_type: bytes, length: int, *, keep_alive: bool) -> bytes:
        """The head of a body whose length is known."""
        kind = b"content-type: %b\r\n" % content_type if content_type else b""
        return self._head(status, b"content-length: %d\r\n%b" % (length, kind), b"", keep_alive=keep_alive)

    def chunked(self, content_type: bytes, *, keep_alive: bool) -> bytes:
        """The head of a stream."""
        return self._head(200, b"content-type: %b\r\n" % content_type, CHUNKED, keep_alive=keep_alive)

    def _head(self, status: int, first: bytes, last: bytes, *, keep_alive: bool) -> bytes:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._date = formatdate(now, usegmt=True).encode()
        return b"HTTP/1.1 %d %b\r\ndate: %b\r\nserver: uvicorn\r\n%bvary: Origin\r\n%b%b\r\n" % (
            status,
            HTTPStatus(status).phrase.encode(),
            self._date,
            first,
            b"" if keep_alive else b"connection: close\r\n",
            last,
        )
