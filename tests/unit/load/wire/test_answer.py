"""What of an answer's events goes into the record."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from tri_serve.load.records import Outcome, Record
from tri_serve.load.wire.answer import Answer, Folder, ToolCall
from tri_serve.load.wire.wording import error_line


def _chat(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish, **more}]}


def _fold(*events: dict[str, Any] | bytes) -> tuple[Record, Folder]:
    """Events at times 10, 20, …"""
    record = Record(index=0, item="x")
    folder = Folder(record)
    payloads = (event if isinstance(event, bytes) else json.dumps(event).encode() for event in events)
    folder.add_events((payload, 10 * number) for number, payload in enumerate(payloads, 1))
    folder.close()
    return record, folder


_USAGE = {
    "choices": [],
    "usage": {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 4},
    },
}
_DONE = b"[DONE]"


def test_times_and_counts_of_a_whole_chat() -> None:
    record, folder = _fold(
        _chat({"role": "assistant", "content": ""}),
        _chat({"content": "가"}),
        _chat({"content": "나다"}, "length"),
        _USAGE,
        _DONE,
    )
    assert folder.verdict() == (Outcome.OK, "")
    assert folder.answer == Answer("가나다")
    assert (record.first_choice, record.first_token, record.last_choice, record.last) == (10, 20, 30, 40)
    assert record.event_times == [10, 20, 30]
    assert record.event_tokens == [0, 1, 1]
    assert (record.input_tokens, record.output_tokens, record.cached_tokens) == (7, 3, 4)
    assert record.usage_reported
    assert record.finish_reason == "length"


def test_a_completion_s_text_bears_tokens() -> None:
    record, folder = _fold(
        {"choices": [{"text": "a", "finish_reason": None}]},
        {"choices": [{"text": "", "finish_reason": "stop"}]},
        _DONE,
    )
    assert folder.answer.text == "a"
    assert record.event_tokens == [1, 0]
    assert (record.output_tokens, record.usage_reported) == (1, False)


def test_token_ids_count_tokens_also_where_no_text_came_yet() -> None:
    record, _ = _fold(
        _chat({"role": "assistant", "content": ""}),
        _chat({"content": ""}, token_ids=[11, 12]),
        _chat({"content": "한"}, "stop", token_ids=[13]),
        _DONE,
    )
    assert record.event_tokens == [0, 2, 1]
    assert record.first_token == 20
    assert record.output_tokens == 3


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_is_a_token_and_no_text(name: str) -> None:
    record, folder = _fold(_chat({name: "hm"}), _chat({"content": "so"}, "stop"), _DONE)
    assert record.first_token == 10
    assert folder.answer == Answer("so", "hm")


def test_tool_calls_are_put_together_from_their_pieces() -> None:
    record, folder = _fold(
        _chat({"role": "assistant"}),
        _chat({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "find", "arguments": ""}}]}),
        _chat({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}),
        _chat({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
        _chat({"tool_calls": [{"index": 1, "id": "c2", "function": {"name": "see", "arguments": "{}"}}]}),
        _chat({}, "tool_calls"),
        _DONE,
    )
    assert folder.verdict()[0] is Outcome.OK
    assert folder.answer.tool_calls == (ToolCall("c1", "find", '{"a":1}'), ToolCall("c2", "see", "{}"))
    assert record.first_token == 20
    assert folder.answer.message["tool_calls"][1]["function"] == {"name": "see", "arguments": "{}"}


_WHOLE = (_chat({"content": "a"}, "stop"), _USAGE)


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ((*_WHOLE, _DONE), Outcome.OK),
        (_WHOLE, Outcome.CUT),
        ((), Outcome.CUT),
        ((_chat({"content": "a"}), _DONE), Outcome.CUT),
        ((_chat({"content": "a"}, "abort"), _DONE), Outcome.CUT),
        ((_chat({"content": "a"}), {"error": {"message": "gone"}}, _DONE), Outcome.IN_BAND_ERROR),
        ((*_WHOLE, {"error": "gone"}, _DONE), Outcome.IN_BAND_ERROR),
        (({**_chat({"content": "a"}, "stop"), "error": {"message": "gone"}}, _DONE), Outcome.IN_BAND_ERROR),
        ((b"{", *_WHOLE, _DONE), Outcome.MALFORMED),
        ((b"[]", *_WHOLE, _DONE), Outcome.MALFORMED),
        ((b'{"a":NaN}', *_WHOLE, _DONE), Outcome.MALFORMED),
        ((b'{"a":"\xed\x95"}', *_WHOLE, _DONE), Outcome.MALFORMED),
    ],
)
def test_what_a_stream_is(events: Iterable[dict[str, Any] | bytes], outcome: Outcome) -> None:
    _, folder = _fold(*events)
    found, detail = folder.verdict()
    assert found is outcome
    assert bool(detail) == (outcome is not Outcome.OK)


def test_what_follows_done_is_nobody_s() -> None:
    record, folder = _fold(*_WHOLE, _DONE, _chat({"content": "more"}))
    assert folder.answer.text == "a"
    assert record.last == 20


@pytest.mark.parametrize(
    "event",
    [
        {"choices": "x"},
        {"choices": ["x", None]},
        {"choices": [{"delta": "x"}]},
        {"choices": [{"delta": {"content": 7, "tool_calls": ["x", {"index": "y"}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": 5}}]}}]},
        {"choices": [], "usage": []},
        {"choices": [], "usage": {"completion_tokens": "3", "prompt_tokens_details": 1}},
        {"usage": None, "error": None},
    ],
)
def test_odd_shapes_do_no_harm(event: dict[str, Any]) -> None:
    record, folder = _fold(event, _chat({"content": "a"}, "stop"), _DONE)
    assert folder.verdict()[0] is Outcome.OK
    assert folder.answer.text == "a"
    assert not record.usage_reported


def test_an_answer_that_was_not_streamed() -> None:
    record = Record(index=0, item="x")
    folder = Folder(record)
    message = {"role": "assistant", "content": "가나", "tool_calls": None}
    body = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": _USAGE["usage"]}
    folder.add_whole(json.dumps(body).encode(), 50, unasked=False)
    assert folder.verdict() == (Outcome.OK, "")
    assert folder.answer.text == "가나"
    assert (record.first_token, record.last, record.output_tokens) == (50, 50, 3)


def test_a_whole_answer_where_a_stream_was_asked_for_gives_no_time_to_first_token() -> None:
    folder = Folder(Record(index=0, item="x"))
    body = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}
    folder.add_whole(json.dumps(body).encode(), 50, unasked=True)
    assert folder.verdict()[0] is Outcome.MALFORMED


def test_an_error_is_told_in_one_line_without_the_request_in_it() -> None:
    message = "[{'type': 'missing', 'loc': ('body',),\n 'input': {'messages': 'my secret'}}]"
    line = error_line({"error": {"type": "Bad", "message": message}})
    assert line.startswith("Bad: [{'type': 'missing'")
    assert "secret" not in line
    assert "\n" not in line
    assert len(error_line({"error": "x" * 1000})) <= 160
