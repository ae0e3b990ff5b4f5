"""Server-sent events out of a stream's bytes (WHATWG HTML, section 9.2.6), piece by piece."""

from __future__ import annotations

import re
from collections.abc import Iterator

MOST_EVENT_BYTES = 1024 * 1024
"""An event beyond this is taken for a stream without events: one token's has some hundred bytes, and parsing one of
this size holds up the event loop for some milliseconds."""
MOST_IDS_BYTES = 16 * 1024 * 1024
"""The same where token ids were asked for: the prompt's ids come in front of an answer, a few bytes for each token,
below 8 MiB at a million."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
# Atomic, so that CR LF is never read as two ends of lines.
_EVENT_END = re.compile(rb"(?:(?>\r\n|\n|\r)){2}")


class EventSplitter:
    """Splits a body. What it hands out is the payload of each event: its data lines, joined."""

    __slots__ = ("_at", "_carry", "_returns", "_searched")

    def __init__(self) -> None:
        self._carry = b""
        self._at = 0
        self._returns = False
        # So much of what is carried holds no event's end.
        self._searched = 0

    @property
    def rest(self) -> bytes:
        """What came after the last event's end."""
        return self._carry

    def split(self, body: bytes) -> Iterator[tuple[bytes, int]]:
        """The events that end within ``body``, the next piece of the stream: the payload, and where in the whole
        stream the event ended. Comments and events without data are left out."""
        data = self._carry + body if self._carry else body
        base = self._at
        self._returns = self._returns or b"\r" in body
        begin, search = 0, self._searched
        while True:
            if self._returns:
                found = _EVENT_END.search(data, search)
                if found is None:
                    break
                # A line feed that is still to come after its carriage return makes an empty line, which is nothing.
                end, after = found.start(), found.end()
            else:
                end = data.find(b"\n\n", search)
                if end < 0:
                    break
                after = end + 2
            if data.startswith(b"data: ", begin) and data.find(b"\n", begin, end) < 0 and not self._returns:
                payload = data[begin + 6 : end]
            else:
                payload = _payload(data[begin:end])
            begin = search = after
            if payload:
                yield payload, base + after
        self._carry = data[begin:]
        self._at = base + begin
        # All of an end but its last byte may have come: three bytes of CR LF CR LF.
        self._searched = max(0, len(self._carry) - 3)


def _payload(block: bytes) -> bytes:
    lines = []
    for line in _LINE_END.split(block):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines)
