"""The client against the mock engine: each of its faults, and the times of its schedule."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from tri_serve.load.checks import judge
from tri_serve.load.records import Outcome, Record
from tri_serve.load.wire.answer import Answer
from tri_serve.load.wire.client import Client
from tri_serve.load.wire.target import Target, parse_target
from tri_serve.load.workload.items import Check, Item

_TTFT_MS = 40.0
_ITL_MS = 10.0


def _start() -> tuple[subprocess.Popen[str], Target]:
    options = ["--port", "0", "--ttft-ms", str(_TTFT_MS), "--itl-ms", str(_ITL_MS)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tri_serve.mock", *options], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found is not None
    return process, parse_target(found[0])


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    process, target = _start()
    yield target
    _stop(process)


@pytest.fixture
def client(target: Target) -> Iterator[Client]:
    with Client(target, "tri-mock", silence=0.6) as client:
        yield client


def _chat(fault: str = "", tokens: int = 4, **more: Any) -> Item:
    body = {"messages": [{"role": "user", "content": "안녕"}], "max_tokens": tokens, "mock": fault, **more}
    return Item("x", "g", "/v1/chat/completions", body, 28, tokens, Check(exact_tokens=tokens))


def _completion(fault: str = "", tokens: int = 4) -> Item:
    return Item(
        "x", "g", "/v1/completions", {"prompt": "안녕", "max_tokens": tokens, "mock": fault}, 7, tokens
    )


def _ask(client: Client, item: Item) -> tuple[Record, Answer]:
    record = Record(index=0, item=item.id)
    answer = client.ask(item, record)
    judge(record, item, answer)
    return record, answer


@pytest.mark.parametrize(
    ("fault", "outcome", "detail"),
    [
        ("", Outcome.OK, ""),
        ("status=503", Outcome.STATUS, "503: ServiceUnavailableError: "),
        ("status=401", Outcome.STATUS, "401: "),
        ("reset-before", Outcome.CUT, "reset by peer before the answer"),
        ("reset-after=0", Outcome.CUT, "reset by peer inside the body"),
        ("reset-after=2", Outcome.CUT, "reset by peer inside the body"),
        ("cut-inside=2", Outcome.CUT, "reset by peer inside the body"),
        ("close-after=2", Outcome.CUT, "closed by the server inside the body"),
        ("stall-before", Outcome.TIMEOUT, "nothing came for 0.6 s before the answer"),
        ("stall-after=2", Outcome.TIMEOUT, "nothing came for 0.6 s inside the body"),
        ("slow-head", Outcome.OK, ""),
        ("garbage", Outcome.MALFORMED, "does not begin as HTTP/1.1"),
        ("bad-chunk=2", Outcome.MALFORMED, "a chunk has no size"),
        ("error-event=0", Outcome.IN_BAND_ERROR, "InternalServerError"),
        ("error-event=2", Outcome.IN_BAND_ERROR, "InternalServerError"),
        ("error-event=2,close-after=3", Outcome.IN_BAND_ERROR, "InternalServerError"),
        ("finish=abort", Outcome.CUT, "finish reason abort"),
        ("finish=stop", Outcome.OK, ""),
        ("no-done", Outcome.CUT, "without [DONE]"),
        ("coalesce=3", Outcome.OK, ""),
        ("coalesce=99", Outcome.OK, ""),
        ("split", Outcome.OK, ""),
        ("split,coalesce=2", Outcome.OK, ""),
    ],
)
@pytest.mark.parametrize("route", ["chat", "completions"])
def test_each_fault_has_its_outcome(
    client: Client, route: str, fault: str, outcome: Outcome, detail: str
) -> None:
    record, _ = _ask(client, _chat(fault) if route == "chat" else _completion(fault))
    assert (record.outcome, record.detail) == (outcome, record.detail)
    assert detail in record.detail
    assert bool(record.detail) == (outcome is not Outcome.OK)
    # The next request meets nothing of it.
    assert _ask(client, _chat())[0].ok


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("", Outcome.OK),
        ("lie-length=5", Outcome.CUT),
        ("lie-length=-5", Outcome.MALFORMED),
        ("reset-after=0", Outcome.CUT),
        ("status=500", Outcome.STATUS),
    ],
)
def test_answers_that_are_not_streamed(client: Client, fault: str, outcome: Outcome) -> None:
    record, answer = _ask(client, _chat(fault, stream=False))
    assert record.outcome is outcome
    if outcome is Outcome.OK:
        assert (record.output_tokens, record.input_tokens) == (4, 28)
        assert len(answer.text.split()) == 4


def test_an_engine_that_dies_cuts_its_streams() -> None:
    process, target = _start()
    client = Client(target, "tri-mock")
    record, _ = _ask(client, _chat("die-after=2"))
    assert record.outcome is Outcome.CUT
    process.wait(10)
    record, _ = _ask(client, _chat())
    assert (record.outcome, record.detail) == (Outcome.CONNECT, "connection refused")
    _stop(process)


def test_the_times_are_those_of_the_schedule(client: Client) -> None:
    """The best of some: other programs of the machine make any of them late, and nothing makes one early."""
    first, gap, end = [], [], []
    for _ in range(8):
        record, _ = _ask(client, _chat(tokens=6))
        assert record.ok
        times = record.event_times
        assert len(times) == 7
        assert record.sent <= record.head < record.first_choice <= record.first_token == times[1]
        assert times[-1] == record.last_choice <= record.last <= record.done
        first.append((record.first_token - record.sent) / 1e6)
        gap.append((times[-1] - times[1]) / 5e6)
        end.append((record.last - record.sent) / 1e6)
    # The engine's clock begins when it has read the request, and its timer is up to a millisecond late.
    assert _TTFT_MS <= min(first) < _TTFT_MS + 8
    assert abs(min(gap) - _ITL_MS) < 2
    assert _TTFT_MS + 5 * _ITL_MS <= min(end) < _TTFT_MS + 5 * _ITL_MS + 12


def test_token_ids_count_the_tokens_of_an_event(target: Target) -> None:
    with Client(target, "tri-mock", token_ids=True) as client:
        record, _ = _ask(client, _chat(tokens=5))
    assert record.event_tokens == [0, 1, 1, 1, 1, 1]
    assert (record.output_tokens, record.input_tokens, record.usage_reported) == (5, 28, True)
    assert (record.intended_input_tokens, record.intended_output_tokens) == (28, 5)


def test_connections_are_used_again_only_after_whole_answers(client: Client) -> None:
    asked = ["", "", "status=503", "", "close-after=1", "", ""]
    assert [_ask(client, _chat(fault))[0].reused for fault in asked] == [
        False,
        True,
        True,
        True,
        True,
        False,
        True,
    ]


def test_a_connection_that_the_server_has_closed_is_not_used(target: Target) -> None:
    process, own = _start()
    client = Client(own, "tri-mock")
    assert _ask(client, _chat())[0].ok
    _stop(process)
    record, _ = _ask(client, _chat())
    assert record.outcome is Outcome.CONNECT
    assert not record.reused


def test_a_killed_request_keeps_what_had_come(client: Client) -> None:
    record = Record(index=0, item="x")
    greenlet = gevent.spawn(client.ask, _chat(tokens=500), record)
    gevent.sleep((_TTFT_MS + 5.5 * _ITL_MS) / 1e3)
    greenlet.kill()
    assert record.outcome is Outcome.CANCELLED
    assert 1 < record.output_tokens <= 6
    assert len(record.event_times) == len(record.event_tokens)
    # The engine hears of it: nothing keeps running for nobody.
    deadline = time.monotonic() + 5
    while b'"running":0' not in (stats := client.fetch("GET", "/mock/stats")[1]):
        assert time.monotonic() < deadline, stats
        gevent.sleep(0.02)


def test_a_kill_in_the_middle_of_parsing_loses_no_event_and_counts_none_twice(client: Client) -> None:
    item = _chat("ttft-ms=0,itl-ms=0,coalesce=4000", 2000)
    whole, _ = _ask(client, item)
    assert whole.ok
    killed = 0
    for _ in range(5):
        record = Record(index=0, item="x")
        greenlet = gevent.spawn(client.ask, item, record)
        while record.bytes_received < whole.bytes_received:
            gevent.sleep(0)
        greenlet.kill()
        if record.outcome is Outcome.CANCELLED:
            killed += 1
        assert len(record.event_times) == 2001
        assert record.event_times == sorted(record.event_times)
    assert killed


def test_many_streams_at_once_are_each_whole(target: Target) -> None:
    records = [Record(index=n, item="x") for n in range(200)]
    with Client(target, "tri-mock") as client:
        greenlets = [gevent.spawn(client.ask, _chat(tokens=20), record) for record in records]
        gevent.joinall(greenlets, raise_error=True)
    assert [record for record in records if not record.ok] == []
    assert {record.output_tokens for record in records} == {20}


def test_a_long_answer_s_events_are_all_timed(client: Client) -> None:
    record, answer = _ask(client, _chat("itl-ms=0", 3000))
    assert record.ok, record.detail
    assert len(record.event_times) == 3001
    assert record.event_times == sorted(record.event_times)
    assert len(answer.text.split()) == 3000


def test_fetching_outside_of_the_load(client: Client) -> None:
    status, body = client.fetch("GET", "/v1/models")
    assert status == 200
    assert b"tri-mock" in body
    status, body = client.fetch("POST", "/tokenize", {"prompt": "안녕"})
    assert status == 200
    assert client.fetch("GET", "/nowhere")[0] == 404
