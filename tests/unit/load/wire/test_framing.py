"""Answers of every form that HTTP/1.1 allows, cut at every byte."""

from __future__ import annotations

import itertools
import time

import pytest

from tri_serve.load.wire.framing import MOST_HEAD_BYTES, AnswerReader, MalformedAnswerError

_OK = b"HTTP/1.1 200 OK\r\n"
_BODY = "data: 가나다\r\n\r\ndata: 0\r\n\r\n".encode()


def _chunked(*chunks: bytes, last: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return _OK + b"Transfer-Encoding: chunked\r\n\r\n" + body + last


_WHOLE = {
    "chunks": _chunked(_BODY[:5], _BODY[5:]),
    "one chunk": _chunked(_BODY),
    "chunks of one byte": _chunked(*(_BODY[n : n + 1] for n in range(len(_BODY)))),
    "extension": _OK
    + b"transfer-encoding: CHUNKED\r\n\r\n%X ;a=b\r\n%b\r\n000\r\n\r\n" % (len(_BODY), _BODY),
    "trailers": _chunked(_BODY, last=b"0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n"),
    "length": _OK + b"content-length: %d\r\n\r\n" % len(_BODY) + _BODY,
    "after interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    + _chunked(_BODY),
}


def _read(data: bytes, cuts: list[int]) -> AnswerReader:
    """Reads ``data`` cut at ``cuts``; the time of each read is its number, from 1."""
    reader = AnswerReader()
    edges = [0, *cuts, len(data)]
    for number, (begin, end) in enumerate(itertools.pairwise(edges), 1):
        reader.take(data[begin:end], number)
    return reader


@pytest.mark.parametrize("form", _WHOLE)
def test_an_answer_is_the_same_wherever_it_is_cut(form: str) -> None:
    data = _WHOLE[form]
    cuts = [[], list(range(1, len(data))), *([at] for at in range(1, len(data)))]
    cuts += [[at, at + 2] for at in range(1, len(data) - 2)]
    for places in cuts:
        reader = _read(data, places)
        assert reader.done, places
        assert reader.drain()[0] == _BODY, places
        assert reader.keep_alive, places
        assert (reader.status, reader.body_bytes) == (200, len(_BODY))


@pytest.mark.parametrize("form", _WHOLE)
def test_no_answer_is_whole_before_its_last_byte(form: str) -> None:
    data = _WHOLE[form]
    for at in range(len(data)):
        reader = _read(data[:at], [])
        assert not reader.done, at
        assert not reader.take_end(), at


def test_each_piece_of_a_body_has_the_time_of_its_read() -> None:
    head = _chunked(b"", last=b"").removesuffix(b"0\r\n\r\n")
    reader = AnswerReader()
    reader.take(head[:10], 1)
    reader.take(head[10:] + b"4\r\nab", 2)
    reader.take(b"cd\r\n", 3)
    reader.take(b"3\r\nefg\r\n", 4)
    reader.take(b"1\r\nh\r\n2\r\nij\r\n0\r\n\r\n", 5)
    assert reader.head_time == 2
    body, ends, stamps = reader.drain()
    assert body == b"abcdefghij"
    assert list(zip(ends, stamps, strict=True)) == [(2, 2), (4, 3), (7, 4), (8, 5), (10, 5)]
    assert reader.drain() == (b"", [], [])


def test_a_body_without_length_ends_with_the_connection() -> None:
    reader = _read(_OK + b"\r\n" + _BODY, [30])
    assert not reader.done
    assert reader.take_end()
    assert reader.drain()[0] == _BODY
    assert not reader.keep_alive


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_whether_the_connection_is_kept(head: bytes, kept: bool) -> None:
    assert _read(head + b"content-length: 2\r\n\r\nok", []).keep_alive is kept


def test_bytes_after_the_answer_make_the_connection_useless() -> None:
    reader = _read(_WHOLE["length"] + b"x", [])
    assert reader.done
    assert not reader.keep_alive


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"\x16\x03\x01\x02\x00",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        _OK + b"no header\r\n\r\n",
        _OK + b"bad name : x\r\n\r\n",
        _OK + b"content-length: -1\r\n\r\n",
        _OK + b"content-length: 1e3\r\n\r\n",
        _OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
        _OK + b"transfer-encoding: gzip, chunked\r\n\r\n",
        _OK + b"x: " + b"y" * MOST_HEAD_BYTES,
        _chunked(b"ab", last=b"zz\r\n"),
        _chunked(b"ab", last=b"\r\n"),
        _chunked(b"ab", last=b"-2\r\nab\r\n"),
        _chunked(b"ab", last=b"0x2\r\nab\r\n"),
        _chunked(b"ab", last=b"1" * 9 + b"\r\n"),
        _chunked(b"ab", last=b"1\r\nabc\r\n"),
        _chunked(b"ab", last=b"1\r\nabc0\r\n\r\n"),
        _chunked(b"ab", last=b"1;" + b"x" * 5000),
        _chunked(b"ab", last=b"0\r\n" + b"x" * 5000),
    ],
    ids=lambda data: repr(data[-24:]),
)
def test_what_is_not_http_is_refused_wherever_it_is_cut(data: bytes) -> None:
    for cuts in ([], [at for at in range(1, len(data)) if len(data) < 200], [len(data) // 2]):
        with pytest.raises(MalformedAnswerError):
            _read(data, cuts)


def test_a_chunk_in_a_read_of_its_own_must_end_as_chunks_do() -> None:
    reader = _read(_OK + b"transfer-encoding: chunked\r\n\r\n", [])
    reader.take(b"2\r\nab\r\n", 2)
    with pytest.raises(MalformedAnswerError):
        reader.take(b"2\r\nabXY", 3)


def test_thousands_of_small_chunks_in_one_read_take_no_longer_each() -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    reader = AnswerReader()
    began = time.process_time()
    reader.take(head + b"1\r\nx\r\n" * 200_000 + b"0\r\n\r\n", 1)
    # Cut down chunk by chunk, these 1.2 MB would be copied 200,000 times.
    assert time.process_time() - began < 3
    assert reader.done
    assert reader.drain()[0] == b"x" * 200_000
