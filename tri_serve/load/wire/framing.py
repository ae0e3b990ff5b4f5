"""HTTP/1.1 answers out of bytes as they come (RFC 9112): head, then a body in chunks, of a length, or to the end.

This runs between two reads of a stream while others wait, so it does no more than find where the answer ends. Each
piece of the body keeps the time of the read that brought it.
"""

from __future__ import annotations

import re
from enum import Enum

MOST_HEAD_BYTES = 65_536
"""Servers and proxies bound the heads that they take at 8 to 64 KiB; one that sends more is not HTTP."""
_MOST_CHUNK_LINE = 4_096
"""A chunk's size with extensions, and all trailers, together with what frames them."""

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?\r\n")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})\r\n")
_CHUNK_WITH_EXTENSION = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")


class MalformedAnswerError(Exception):
    """What came is not HTTP/1.1."""


class _State(Enum):
    HEAD = "head"
    CHUNKS = "chunks"
    TRAILERS = "trailers"
    LENGTH = "length"
    TO_END = "to end"
    DONE = "done"


class AnswerReader:
    """One answer. ``take`` what was read, then ``drain`` the body that has come."""

    __slots__ = (
        "_carry",
        "_ends",
        "_left",
        "_pieces",
        "_stamps",
        "_state",
        "body_bytes",
        "head_time",
        "headers",
        "held_bytes",
        "interim",
        "keep_alive",
        "status",
    )

    def __init__(self) -> None:
        self._state = _State.HEAD
        # Bytes that are not yet understood: a part of a head, of a chunk's size or of a trailer.
        self._carry = b""
        # Of the present chunk with the two bytes behind it, or of a body of known length.
        self._left = 0
        self._pieces: list[bytes] = []
        self._ends: list[int] = []
        self._stamps: list[int] = []
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        """Names in lower case; the last of a repeated one."""
        self.head_time = 0
        """When the head was complete, as ``take`` was told."""
        self.body_bytes = 0
        """Of the body, so far."""
        self.held_bytes = 0
        """Of the body that ``drain`` has not handed out yet."""
        self.interim = False
        """Interim answers have come, and nothing of the real one."""
        self.keep_alive = False
        """After the end: the connection can be used again."""

    @property
    def done(self) -> bool:
        """The answer is whole."""
        return self._state is _State.DONE

    @property
    def begun(self) -> bool:
        """Anything of it has come."""
        return self._state is not _State.HEAD or bool(self._carry)

    def take(self, data: bytes, now: int) -> None:
        """Read on: ``data`` was read at ``now``. Raises MalformedAnswerError at what is not HTTP."""
        if self._state is _State.CHUNKS and not self._left and not self._carry:
            # What servers write: one event, one chunk, one packet.
            found = _CHUNK.match(data)
            if found is not None:
                size = int(found[1], 16)
                begin = found.end()
                if size and len(data) == begin + size + 2 and data.endswith(b"\r\n"):
                    self._keep(data[begin:-2], now)
                    return
        while data and self._state is not _State.DONE:
            data = self._step(data, now)
        if data:
            # Bytes that nobody asked for follow the answer.
            self.keep_alive = False

    def take_end(self) -> bool:
        """The server closed. Whether the answer was whole by that."""
        self.keep_alive = False
        if self._state is _State.TO_END:
            self._state = _State.DONE
        return self.done

    def drain(self) -> tuple[bytes, list[int], list[int]]:
        """What has come of the body since the last call; for each read, where in the whole body it ended, and its
        time."""
        drained = (b"".join(self._pieces), self._ends, self._stamps)
        self._pieces, self._ends, self._stamps = [], [], []
        self.held_bytes = 0
        return drained

    def _keep(self, piece: bytes, now: int) -> None:
        self.body_bytes += len(piece)
        self.held_bytes += len(piece)
        self._pieces.append(piece)
        self._ends.append(self.body_bytes)
        self._stamps.append(now)

    def _step(self, data: bytes, now: int) -> bytes:
        """Understand one part of ``data``; returns the rest."""
        if self._state is _State.HEAD:
            return self._take_head(data, now)
        if self._state is _State.CHUNKS:
            return self._take_chunk(data, now) if self._left else self._take_chunk_size(data, now)
        if self._state is _State.TRAILERS:
            return self._take_trailers(data)
        if self._state is _State.LENGTH:
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            self._keep(piece, now)
            if not self._left:
                self._state = _State.DONE
            return data
        self._keep(data, now)
        return b""

    def _take_head(self, data: bytes, now: int) -> bytes:
        data = self._carry + data
        if not b"HTTP/1.".startswith(data[:7]):
            raise MalformedAnswerError("the answer does not begin as HTTP/1.1")
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > MOST_HEAD_BYTES:
            if len(data) > MOST_HEAD_BYTES:
                raise MalformedAnswerError(f"the head is longer than {MOST_HEAD_BYTES} bytes")
            self._carry = data
            return b""
        self._carry = b""
        self.interim = False
        line = _STATUS_LINE.match(data)
        if line is None:
            raise MalformedAnswerError("the first line is no status line")
        status = int(line[2])
        if status < 200:
            # An interim answer (RFC 9110, section 15.2): the real one follows.
            self.interim = True
            return data[end + 4 :]
        self.status = status
        self.headers = _headers(data[line.end() : end + 2])
        self.head_time = now
        self._begin_body(old=line[1] == b"0")
        return data[end + 4 :]

    def _begin_body(self, *, old: bool) -> None:
        tokens = self.headers.get(b"connection", b"").lower()
        self.keep_alive = b"keep-alive" in tokens if old else b"close" not in tokens
        coding = self.headers.get(b"transfer-encoding")
        length = self.headers.get(b"content-length")
        if coding is not None:
            if coding.lower() != b"chunked":
                raise MalformedAnswerError("a transfer coding other than chunked was not asked for")
            self._state = _State.CHUNKS
        elif self.status in (204, 304):
            self._state = _State.DONE
        elif length is not None:
            if not length.isdigit() or len(length) > 15:
                raise MalformedAnswerError("content-length is no number")
            self._left = int(length)
            self._state = _State.LENGTH if self._left else _State.DONE
        else:
            self.keep_alive = False
            self._state = _State.TO_END

    def _take_chunk_size(self, data: bytes, now: int) -> bytes:
        if not self._carry:
            data = self._take_small_chunks(data, now)
            if not data:
                return b""
        data = self._carry + data
        found = _CHUNK_WITH_EXTENSION.match(data)
        if found is None:
            if b"\n" in data[:_MOST_CHUNK_LINE] or len(data) > _MOST_CHUNK_LINE:
                raise MalformedAnswerError("a chunk has no size")
            if data[:1] not in b"0123456789abcdefABCDEF":
                raise MalformedAnswerError("a chunk has no size")
            self._carry = data
            return b""
        self._carry = b""
        size = int(found[1], 16)
        if size:
            self._left = size + 2
        else:
            self._state = _State.TRAILERS
        return data[found.end() :]

    def _take_chunk(self, data: bytes, now: int) -> bytes:
        here = data[: self._left]
        self._left -= len(here)
        # The last two of a chunk are CR LF; either can come in a read of its own.
        over = min(len(here), max(0, 2 - self._left))
        if over:
            first = 2 - self._left - over
            if here[-over:] != b"\r\n"[first : first + over]:
                raise MalformedAnswerError("a chunk is longer than its size says")
            here = here[:-over]
        if here:
            self._keep(here, now)
        return data[len(here) + over :]

    def _take_small_chunks(self, data: bytes, now: int) -> bytes:
        """Whole chunks at the front of ``data``; returns the rest. A read can hold thousands: it is walked through,
        not cut down chunk by chunk."""
        at = 0
        while (found := _CHUNK.match(data, at)) is not None:
            size, begin = int(found[1], 16), found.end()
            end = begin + size
            if not size or data[end : end + 2] != b"\r\n":
                break
            self._keep(data[begin:end], now)
            at = end + 2
        return data[at:]

    def _take_trailers(self, data: bytes) -> bytes:
        data = self._carry + data
        self._carry = b""
        if data.startswith(b"\r\n"):
            self._state = _State.DONE
            return data[2:]
        end = data.find(b"\r\n\r\n")
        if end >= 0:
            self._state = _State.DONE
            return data[end + 4 :]
        if len(data) > _MOST_CHUNK_LINE:
            raise MalformedAnswerError("trailers without end")
        self._carry = data
        return b""


def _headers(lines: bytes) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for line in lines.split(b"\r\n")[:-1]:
        name, colon, value = line.partition(b":")
        if not colon or _NAME.fullmatch(name) is None:
            raise MalformedAnswerError("a line of the head is no header")
        name = name.lower()
        value = value.strip(b" \t")
        if name in (b"content-length", b"transfer-encoding") and headers.get(name, value) != value:
            raise MalformedAnswerError(f"{name.decode()} stands in the head twice")
        headers[name] = value
    return headers
