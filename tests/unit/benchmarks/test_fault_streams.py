"""What an answer is called."""

from __future__ import annotations

import json

import pytest

from benchmarks.faults.prompts import Ask
from benchmarks.faults.streams import Answer, Outcome, classify

EXPECTED = "서울입니다. 😊"


def _ask(*, stream=True, api="chat"):
    return Ask(api, stream, "ko", False, b"{}", EXPECTED)


def _event(text, *, reason=None, api="chat"):
    choice = {"index": 0, "finish_reason": reason}
    choice |= {"delta": {"content": text}} if api == "chat" else {"text": text}
    return f"data: {json.dumps({'choices': [choice]}, ensure_ascii=False)}\n\n".encode()


ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
ERROR = b'data: {"error": {"message": "the engine failed", "code": "engine_failed"}}\n\n'
DONE = b"data: [DONE]\n\n"


def _answer(*parts, status=200, complete=True, **more):
    return Answer(status=status, body=bytearray(b"".join(parts)), complete=complete, **more)


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_stream_of_the_whole_text_and_done_is_ok(api):
    events = (_event(EXPECTED[:3], api=api), _event(EXPECTED[3:], reason="stop", api=api), DONE)

    assert classify(_ask(api=api), _answer(*events)).outcome is Outcome.OK


def test_roles_comments_and_usage_are_no_text():
    usage = b'data: {"choices":[],"usage":{"completion_tokens":4}}\n\n'
    events = (ROLE, b": waiting\n\n", _event(EXPECTED, reason="stop"), usage, DONE)

    assert classify(_ask(), _answer(*events)).outcome is Outcome.OK


def test_an_error_event_after_a_right_beginning_ends_a_stream_in_order():
    verdict = classify(_ask(), _answer(ROLE, _event(EXPECTED[:4]), ERROR))

    assert verdict.outcome is Outcome.ERROR_EVENT
    assert "the engine failed" in verdict.detail


def test_an_error_event_followed_by_done_is_still_an_error():
    assert classify(_ask(), _answer(_event(EXPECTED[:4]), ERROR, DONE)).outcome is Outcome.ERROR_EVENT


def test_an_error_event_after_wrong_text_excuses_nothing():
    assert classify(_ask(), _answer(_event("부산"), ERROR)).outcome is Outcome.WRONG


@pytest.mark.parametrize("complete", [True, False])
def test_a_stream_that_just_ends_is_cut(complete):
    answer = _answer(_event(EXPECTED), complete=complete)

    assert classify(_ask(), answer).outcome is Outcome.CUT


def test_a_stream_that_ends_inside_an_event_is_cut():
    event = _event(EXPECTED[4:])
    verdict = classify(_ask(), _answer(_event(EXPECTED[:4]), event[: len(event) // 2], complete=False))

    assert verdict.outcome is Outcome.CUT
    assert "inside an event" in verdict.detail


def test_a_stream_without_an_event_is_cut():
    assert classify(_ask(), _answer(complete=False, error="reset")).outcome is Outcome.CUT


@pytest.mark.parametrize("said", ["서울입니다", "서울입니다. 😊 서울입니다. 😊", "부산입니다. 😊"])
def test_done_after_another_text_is_wrong(said):
    assert classify(_ask(), _answer(_event(said, reason="stop"), DONE)).outcome is Outcome.WRONG


def test_an_aborted_stream_that_calls_itself_done_is_wrong():
    verdict = classify(_ask(), _answer(_event(EXPECTED[:4], reason="abort"), DONE))

    assert (verdict.outcome, "abort" in verdict.detail) == (Outcome.WRONG, True)


def test_an_event_that_is_no_json_is_wrong():
    assert classify(_ask(), _answer(b"data: {half\n\n", DONE)).outcome is Outcome.WRONG


def _whole(text, reason="stop"):
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": reason}]}).encode()


def test_a_whole_answer_is_compared_to_the_letter():
    assert classify(_ask(stream=False), _answer(_whole(EXPECTED))).outcome is Outcome.OK
    assert classify(_ask(stream=False), _answer(_whole(EXPECTED[:-1]))).outcome is Outcome.WRONG


def test_a_whole_answer_that_breaks_off_is_lost():
    answer = _answer(_whole(EXPECTED)[:-5], complete=False, error="reset")

    assert classify(_ask(stream=False), answer).outcome is Outcome.LOST


def test_what_never_began_is_told_apart():
    refused = Answer(refused=True, error="Connection refused")

    assert classify(_ask(), refused).outcome is Outcome.REFUSED
    assert classify(_ask(), Answer(error="Connection reset by peer")).outcome is Outcome.LOST
    assert classify(_ask(), Answer(silent=True)).outcome is Outcome.SILENT
    assert classify(_ask(), _answer(b'{"error": {}}', status=503)).outcome is Outcome.STATUS
