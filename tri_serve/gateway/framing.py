"""HTTP/1.1 body framing and server-sent event boundaries, without I/O.

RFC 9112 section 7.1 (chunked), WHATWG HTML section 9.2.5 (events end with an empty line; the line end is LF,
CRLF or CR).
"""

from __future__ import annotations

import re

# A whole event is held back until its end has come; an engine that sends this much without one is not sending
# events.
EVENT_LIMIT = 16 * 1024 * 1024
LAST_CHUNK = b"0\r\n\r\n"

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")
_SIZE_LINE_LIMIT = 512
_TRAILER_LIMIT = 8_192
# Every size that an event of ordinary length has, as engines write it: one look-up both checks and parses.
_SIZES: dict[bytes, int] = {b"%x" % size: size for size in range(3, 8_192)}


class FramingError(Exception):
    """The peer broke the framing of its body. The message says how; ``decoded`` is what was sound before it."""

    def __init__(self, message: str, decoded: bytes = b"") -> None:
        super().__init__(message)
        self.decoded = decoded


def whole_event_chunks(data: bytes) -> int:
    """How many chunks ``data`` consists of if each is complete and ends with an event's end, else 0.

    True for nearly every read from an engine (one event a chunk, one chunk a segment): such bytes go to the
    client as they are. The last chunk (size 0) is never one of them.
    """
    position, length, count = 0, len(data), 0
    while position < length:
        line_end = data.find(b"\r\n", position, position + 6)
        if line_end < 0:
            return 0
        size = _SIZES.get(data[position:line_end])
        if size is None:
            return 0
        end = line_end + 2 + size
        if data[end - 2 : end + 2] != b"\n\n\r\n":
            return 0
        position = end + 2
        count += 1
    return count


def chunk(payload: bytes) -> bytes:
    """``payload`` as one chunk; empty for no bytes, since an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


class LengthBody:
    """A body of a stated length."""

    __slots__ = ("complete", "excess", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.complete = length == 0
        self.excess = False

    def feed(self, data: bytes) -> bytes:
        """Payload bytes in ``data``; what follows the body is dropped and noted in ``excess``."""
        if len(data) > self.left:
            self.excess = True
            data = data[: self.left]
        self.left -= len(data)
        self.complete = self.left == 0
        return data

    def finish(self) -> None:
        """The peer closed. Raises FramingError if it owed bytes."""
        if self.left:
            raise FramingError(f"connection closed with {self.left} bytes of the body missing")


class CloseBody:
    """A body that ends when the connection does."""

    __slots__ = ("complete", "excess")

    def __init__(self) -> None:
        self.complete = False
        self.excess = False

    def feed(self, data: bytes) -> bytes:
        """All of it."""
        return data

    def finish(self) -> None:
        """The peer closed: that is the end."""
        self.complete = True


class ChunkedBody:
    """A chunked body, decoded as it comes; part of a chunk is handed on without waiting for the rest."""

    __slots__ = ("_left", "_rest", "_trailers", "complete", "excess")

    def __init__(self) -> None:
        self._rest = b""
        self._left = 0  # bytes of the current chunk still to come, its CRLF included
        self._trailers = False
        self.complete = False
        self.excess = False

    @property
    def between_chunks(self) -> bool:
        """Whether the next byte starts a chunk."""
        return not self._rest and not self._left and not self._trailers

    def feed(self, data: bytes) -> bytes:
        """Payload bytes in ``data``. Raises FramingError at anything that is no chunk."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        pieces: list[bytes] = []
        position, length = 0, len(data)
        try:
            while position < length and not self.complete and not self._rest:
                if self._left:
                    position = self._take(data, position, pieces)
                elif self._trailers:
                    position = self._skip_trailers(data, position)
                else:
                    position = self._start_chunk(data, position)
        except FramingError as error:
            raise FramingError(str(error), b"".join(pieces)) from error
        self.excess = self.complete and position < length
        return b"".join(pieces)

    def _take(self, data: bytes, position: int, pieces: list[bytes]) -> int:
        payload_left = self._left - 2
        if payload_left > 0:
            piece = data[position : position + payload_left]
            pieces.append(piece)
            self._left -= len(piece)
            return position + len(piece)
        expected = b"\r\n"[2 - self._left :]
        found = data[position : position + self._left]
        if not expected.startswith(found):
            raise FramingError("a chunk does not end where its size says")
        self._left -= len(found)
        return position + len(found)

    def _start_chunk(self, data: bytes, position: int) -> int:
        match = _SIZE_LINE.match(data, position, position + _SIZE_LINE_LIMIT)
        if match is None:
            rest = data[position:]
            if (
                len(rest) >= _SIZE_LINE_LIMIT
                or b"\n" in rest
                or not re.match(rb"[0-9A-Fa-f]{1,8}[ \t;\r]?", rest)
            ):
                raise FramingError("a chunk does not start with its size")
            self._rest = rest
            return len(data)
        size = int(match[1], 16)
        if size:
            self._left = size + 2
        else:
            self._trailers = True
        return match.end()

    def _skip_trailers(self, data: bytes, position: int) -> int:
        if data.startswith(b"\r\n", position):
            self.complete = True
            return position + 2
        end = data.find(b"\r\n\r\n", position)
        if end < 0:
            if len(data) - position > _TRAILER_LIMIT:
                raise FramingError("trailers without end")
            self._rest = data[position:]
            return len(data)
        self.complete = True
        return end + 4

    def finish(self) -> None:
        """The peer closed. Raises FramingError: the last chunk has not come."""
        raise FramingError("connection closed before the last chunk")


Body = LengthBody | CloseBody | ChunkedBody


class EventFramer:
    """Cuts decoded bytes after the last complete event; what follows is held until its end has come."""

    __slots__ = ("_held", "count")

    def __init__(self) -> None:
        self._held = bytearray()
        self.count = 0

    @property
    def empty(self) -> bool:
        """Whether nothing is held back."""
        return not self._held

    def feed(self, payload: bytes) -> bytes:
        """Whole events only. Raises FramingError when one event grows past EVENT_LIMIT."""
        held = self._held
        scan_from = max(0, len(held) - 3)
        held += payload
        cut = max(
            _after_last(held, b"\n\n", scan_from),
            _after_last(held, b"\r\n\r\n", scan_from),
            _after_last(held, b"\r\r", scan_from),
        )
        if not cut:
            if len(held) > EVENT_LIMIT:
                raise FramingError(f"an event is longer than {EVENT_LIMIT} bytes")
            return b""
        events = bytes(held[:cut])
        del held[:cut]
        self.count += max(1, events.count(b"\n\n") + events.count(b"\r\n\r\n") + events.count(b"\r\r"))
        return events

    def rest(self) -> bytes:
        """What was held when the body ended in good order: an engine may leave out the last empty line."""
        rest = bytes(self._held)
        self._held.clear()
        return rest


def _after_last(held: bytearray, mark: bytes, start: int) -> int:
    found = held.rfind(mark, start)
    return found + len(mark) if found >= 0 else 0
