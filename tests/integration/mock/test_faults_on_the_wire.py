"""Each fault is on the wire what its name says."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Running

END = b"data: [DONE]\n\n\r\n0\r\n\r\n"
ROLE, TOKENS, DONE = 1, 3, 1


def read(connection: socket.socket) -> tuple[bytes, str]:
    """What came, and how it ended: closed, reset or silent (for a third of a second)."""
    data = b""
    connection.settimeout(0.34)
    with connection:
        while True:
            try:
                piece = connection.recv(65536)
            except ConnectionResetError:
                return data, "reset"
            except TimeoutError:
                return data, "silent"
            if not piece:
                return data, "closed"
            data += piece


def events(data: bytes) -> int:
    return data.count(b"data: ")


def test_without_a_fault_the_answer_is_whole_and_the_connection_stays(engine: Running) -> None:
    data, end = read(engine.chat())
    assert end == "silent"
    assert data.endswith(END)
    assert events(data) == ROLE + TOKENS + DONE


@pytest.mark.parametrize(
    ("status", "kind"),
    [(500, "InternalServerError"), (503, "ServiceUnavailableError"), (429, "TooManyRequestsError")],
)
def test_a_status_comes_with_an_error_object(engine: Running, status: int, kind: str) -> None:
    data, _ = read(engine.chat(f"status={status}"))
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    error = json.loads(body)["error"]
    assert (error["type"], error["code"], error["param"]) == (kind, status, None)
    assert error["message"]


def test_reset_before_sends_not_one_byte(engine: Running) -> None:
    assert read(engine.chat("reset-before")) == (b"", "reset")


def test_reset_after_sends_its_events_and_resets(engine: Running) -> None:
    data, end = read(engine.chat("reset-after=2"))
    assert end == "reset"
    assert events(data) == 2
    assert data.endswith(b"\n\n\r\n")


def test_reset_after_none_sends_the_head_alone(engine: Running) -> None:
    data, end = read(engine.chat("reset-after=0"))
    assert end == "reset"
    assert data.endswith(b"transfer-encoding: chunked\r\n\r\n")


def test_cut_inside_resets_in_the_middle_of_an_event(engine: Running) -> None:
    data, end = read(engine.chat("cut-inside=2"))
    assert end == "reset"
    assert events(data) == 2
    assert not data.endswith(b"\n\n\r\n")


def test_close_after_ends_without_the_last_chunk(engine: Running) -> None:
    data, end = read(engine.chat("close-after=2"))
    assert end == "closed"
    assert events(data) == 2
    assert b"\r\n0\r\n\r\n" not in data


def test_stall_before_is_silence(engine: Running) -> None:
    assert read(engine.chat("stall-before")) == (b"", "silent")


def test_stall_after_falls_silent_and_keeps_running_until_the_client_leaves(engine: Running) -> None:
    connection = engine.chat("stall-after=2")
    assert engine.stats_when(lambda stats: stats["running"] == 1)["running"] == 1
    data, end = read(connection)
    assert end == "silent"
    assert events(data) == 2
    assert engine.stats_when(lambda stats: stats["running"] == 0)["aborted"] == 1


@pytest.mark.parametrize(("lie", "missing"), [("lie-length=7", 7), ("lie-length=-7", -7)])
def test_lie_length_claims_another_length_than_comes(engine: Running, lie: str, missing: int) -> None:
    data, end = read(engine.chat(lie, stream=False))
    head, _, body = data.partition(b"\r\n\r\n")
    claimed = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert claimed - len(body) == missing
    assert end == "closed"
    json.loads(body)


def test_garbage_is_no_http(engine: Running) -> None:
    data, end = read(engine.chat("garbage"))
    assert end == "closed"
    assert data
    assert not data.startswith(b"HTTP/")


def test_bad_chunk_breaks_the_framing(engine: Running) -> None:
    data, end = read(engine.chat("bad-chunk=2"))
    assert end == "closed"
    assert events(data) == 1
    assert data.endswith(b"zz;\r\nnot a chunk\r\n")


def test_slow_head_drips_and_is_followed_by_the_answer(engine: Running) -> None:
    begun = time.monotonic()
    data, _ = read(engine.chat("slow-head"))
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert data.endswith(END)
    assert time.monotonic() - begun > 0.01 * data.index(b"\r\n\r\n")


def test_slow_head_works_without_a_stream(engine: Running) -> None:
    data, _ = read(engine.chat("slow-head", stream=False))
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert json.loads(body)["choices"][0]["finish_reason"] == "length"


def test_error_event_comes_inside_a_stream_that_began_well(engine: Running) -> None:
    data, _ = read(engine.chat("error-event=2"))
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    lines = [line for line in data.split(b"\n") if line.startswith(b"data: ")]
    assert json.loads(lines[2][6:])["error"]["code"] == 500
    assert lines[3:] == [b"data: [DONE]"]


def test_finish_abort_is_the_last_reason(engine: Running) -> None:
    data, _ = read(engine.chat("finish=abort"))
    assert b'"finish_reason":"abort"' in data


def test_no_done_ends_the_body_without_the_marker(engine: Running) -> None:
    data, _ = read(engine.chat("no-done"))
    assert b"[DONE]" not in data
    assert data.endswith(b"\n\n\r\n0\r\n\r\n")


def test_die_after_ends_the_process_as_a_kill_does(engine: Running) -> None:
    data, end = read(engine.chat("die-after=2"))
    assert end in ("closed", "reset")
    assert events(data) == 2
    assert engine.process.wait(5) == 137


def test_coalesce_puts_several_events_into_one_chunk(engine: Running) -> None:
    data, _ = read(engine.chat("coalesce=5"))
    body = data.partition(b"\r\n\r\n")[2]
    size = int(body.split(b"\r\n", 1)[0], 16)
    assert events(body) == 5
    assert body[size:].endswith(b"\r\n0\r\n\r\n")


def test_split_needs_several_reads_for_an_event(engine: Running) -> None:
    connection = engine.chat("split,itl-ms=30")
    pieces = []
    while not b"".join(pieces).endswith(b"0\r\n\r\n"):
        pieces.append(connection.recv(65536))
    connection.close()
    assert len([piece for piece in pieces if not piece.endswith(b"\r\n")]) >= TOKENS


def test_the_header_wins_over_the_body(engine: Running) -> None:
    connection = engine.ask(
        {"messages": [{"role": "user", "content": "x"}], "mock": "status=500"},
        headers="x-mock-fault: status=503\r\n",
    )
    assert read(connection)[0].startswith(b"HTTP/1.1 503 ")


def test_an_unknown_fault_is_refused(engine: Running) -> None:
    data, _ = read(engine.chat("explode"))
    assert data.startswith(b"HTTP/1.1 400 ")
    assert b"explode" in data


def test_a_fault_can_be_set_for_a_number_of_requests(engine: Running) -> None:
    read(engine.ask({"fault": "status=503", "times": 2}, "/mock/fault"))
    statuses = [read(engine.chat())[0][9:12] for _ in range(3)]
    assert statuses == [b"503", b"503", b"200"]


def test_a_fault_can_be_set_for_the_whole_process(start_engine: Callable[..., Running]) -> None:
    engine = start_engine("--fault", "status=429")
    assert read(engine.chat())[0].startswith(b"HTTP/1.1 429 ")
