"""Server-sent events in every form, cut at every byte."""

from __future__ import annotations

import itertools
import time

import pytest

from tri_serve.load.wire.events import EventSplitter

_STREAMS = {
    "as vLLM writes": (b'data: {"a":1}\n\ndata: [DONE]\n\n', [b'{"a":1}', b"[DONE]"]),
    "carriage returns and line feeds": (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    "carriage returns": (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    "several lines in both": (b"event: x\r\ndata: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n", [b"a\nb", b"c"]),
    "mixed": (b"data: a\n\ndata: b\r\n\r\ndata: c\n\n", [b"a", b"b", b"c"]),
    "comments": (b": ping\n\ndata: a\n\n: ping\n\n:\n\ndata: b\n\n", [b"a", b"b"]),
    "comment inside": (b": x\ndata: a\n: y\n\n", [b"a"]),
    "no space": (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
    "named": (b"event: message\nid: 7\ndata: a\nretry: 5\n\n", [b"a"]),
    "several lines": (b"data: [1,\ndata: 2]\n\n", [b"[1,\n2]"]),
    "without data": (b"event: x\n\ndata\n\ndata:\n\ndata: a\n\n", [b"a"]),
    "more line ends": (b"\n\n\ndata: a\n\n\n\ndata: b\n\n", [b"a", b"b"]),
    "several bytes a character": ("data: 한글\u2028日本\n\n".encode(), ["한글\u2028日本".encode()]),
    "not whole": (b"data: a\n\ndata: b\n", [b"a"]),
}


@pytest.mark.parametrize("form", _STREAMS)
def test_events_are_the_same_wherever_the_stream_is_cut(form: str) -> None:
    stream, payloads = _STREAMS[form]
    places = range(1, len(stream))
    for cuts in ([], list(places), *([at] for at in places)):
        splitter = EventSplitter()
        edges = [0, *cuts, len(stream)]
        pieces = [stream[begin:end] for begin, end in itertools.pairwise(edges)]
        assert [payload for piece in pieces for payload, _ in splitter.split(piece)] == payloads, cuts


def test_where_an_event_ended_is_counted_over_the_whole_stream() -> None:
    splitter = EventSplitter()
    assert list(splitter.split(b"data: a\n\nda")) == [(b"a", 9)]
    assert list(splitter.split(b"ta: b\n")) == []
    assert list(splitter.split(b"\ndata: c\n\n")) == [(b"b", 18), (b"c", 27)]


def test_the_rest_is_what_no_event_has_ended() -> None:
    splitter = EventSplitter()
    list(splitter.split(b"data: a\n\ndata: b"))
    assert splitter.rest == b"data: b"


def test_a_long_event_is_searched_once_also_behind_a_carriage_return() -> None:
    splitter = EventSplitter()
    began = time.process_time()
    assert list(splitter.split(b"data: a\r\n\r\ndata: ")) == [(b"a", 11)]
    for _ in range(2000):
        assert list(splitter.split(b"x" * 1000)) == []
    # Searched from its beginning at each piece this would be 2 GB.
    assert time.process_time() - began < 2
    assert [len(payload) for payload, _ in splitter.split(b"\r\n\r\n")] == [2_000_000]
