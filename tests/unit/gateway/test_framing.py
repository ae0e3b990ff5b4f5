"""Body framing and event boundaries, fed in every possible way."""

from __future__ import annotations

import random

import pytest

from tri_serve.gateway.framing import (
    ChunkedBody,
    CloseBody,
    EventFramer,
    FramingError,
    LengthBody,
    chunk,
    whole_event_chunks,
)

EVENT = 'data: {"content":"안녕하세요 👋"}\n\n'.encode()


def test_whole_event_chunks_counts_complete_chunks_that_end_an_event() -> None:
    assert whole_event_chunks(chunk(EVENT)) == 1
    assert whole_event_chunks(chunk(EVENT) * 3) == 3


@pytest.mark.parametrize(
    "data",
    [
        chunk(EVENT)[:-1],
        chunk(EVENT) + b"1",
        chunk(EVENT[:-1]),
        b"0\r\n\r\n",
        chunk(EVENT) + b"0\r\n\r\n",
        b"+3\r\nx\n\n\r\n",
        b"0x3\r\nx\n\n\r\n",
        b"003\r\nx\n\n\r\n",
        b"3;ext=1\r\nx\n\n\r\n",
        b"\r\n\r\n",
        b"4\r\nx\n\n\r\n",
        b"2\r\nx\n\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_whole_event_chunks_leaves_everything_unusual_to_the_decoder(data: bytes) -> None:
    assert whole_event_chunks(data) == 0


def test_chunked_body_decodes_the_same_however_it_is_cut() -> None:
    payload = [EVENT, b"x", b"\r\n\r\n0\r\n\r\n", EVENT * 40]
    wire = b"".join(chunk(part) for part in payload) + b"0\r\n\r\n"
    rng = random.Random(7)
    for _ in range(300):
        body, decoded, position = ChunkedBody(), b"", 0
        while position < len(wire):
            step = rng.choice((1, 2, 3, 7, 50, 5000))
            decoded += body.feed(wire[position : position + step])
            position += step
        assert decoded == b"".join(payload)
        assert body.complete
        assert not body.excess


def test_chunked_body_takes_extensions_upper_case_and_trailers() -> None:
    body = ChunkedBody()
    assert body.feed(b"A;name=v\r\n0123456789\r\n000\r\nx-sum: 1\r\n\r\n") == b"0123456789"
    assert body.complete


def test_chunked_body_notes_what_follows_it() -> None:
    body = ChunkedBody()
    body.feed(b"0\r\n\r\nHTTP/1.1 200 OK")
    assert body.complete
    assert body.excess


@pytest.mark.parametrize(
    "wire",
    [
        b"xyz\r\n",
        b"-1\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\r\nhelloXX",
        b"123456789\r\n",
        b"f" * 600,
        b"\r\n5\r\n",
    ],
)
def test_chunked_body_refuses_what_is_no_chunk(wire: bytes) -> None:
    with pytest.raises(FramingError):
        ChunkedBody().feed(wire)


def test_a_chunked_body_that_ends_with_the_connection_is_incomplete() -> None:
    body = ChunkedBody()
    body.feed(chunk(EVENT))
    with pytest.raises(FramingError, match="before the last chunk"):
        body.finish()


def test_length_body_counts_and_notes_what_is_owed_or_too_much() -> None:
    body = LengthBody(5)
    assert body.feed(b"abc") == b"abc"
    with pytest.raises(FramingError, match="2 bytes"):
        body.finish()
    assert body.feed(b"defg") == b"de"
    assert body.complete
    assert body.excess


def test_close_body_is_complete_when_the_connection_ends() -> None:
    body = CloseBody()
    assert body.feed(b"abc") == b"abc"
    assert not body.complete
    body.finish()
    assert body.complete


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_event_framer_gives_whole_events_only_however_they_are_cut(line_end: bytes) -> None:
    events = [
        b"event: x" + line_end + b"data: " + bytes(str(n), "ascii") * n + line_end * 2 for n in range(1, 30)
    ]
    wire = b"".join(events)
    rng = random.Random(3)
    for _ in range(100):
        framer, out, position = EventFramer(), b"", 0
        while position < len(wire):
            step = rng.choice((1, 2, 5, 40))
            piece = framer.feed(wire[position : position + step])
            assert not piece or piece.endswith(line_end * 2)
            out += piece
            position += step
        assert out == wire
        assert framer.empty
        assert framer.count == len(events)


def test_event_framer_holds_back_an_event_that_is_not_whole() -> None:
    framer = EventFramer()
    assert framer.feed(EVENT + EVENT[:20]) == EVENT
    assert not framer.empty
    assert framer.rest() == EVENT[:20]


def test_event_framer_refuses_an_event_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tri_serve.gateway.framing.EVENT_LIMIT", 1000)
    framer = EventFramer()
    with pytest.raises(FramingError, match="longer than"):
        framer.feed(b"data: " + b"x" * 1000)
