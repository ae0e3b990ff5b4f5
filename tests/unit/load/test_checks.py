"""Right and wrong among whole answers."""

from __future__ import annotations

from typing import Any

import pytest

from tri_serve.load.checks import judge
from tri_serve.load.records import Outcome, Record
from tri_serve.load.wire.answer import Answer, ToolCall
from tri_serve.load.workload.items import Check, Item

_NONE = Check()


def _judged(
    answer: Answer, check: Check = _NONE, outcome: Outcome = Outcome.OK, **fields: Any
) -> tuple[Outcome, str]:
    values: dict[str, Any] = {"output_tokens": 3, "usage_reported": True, "finish_reason": "stop", **fields}
    record = Record(index=0, item="x", outcome=outcome, **values)
    judge(record, Item("x", "g", "/v1/chat/completions", {}, 0, 3, check), answer)
    return record.outcome, record.detail


_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "fields", "check", "outcome"),
    [
        ("가나다", {}, Check(), Outcome.OK),
        ("", {"output_tokens": 0}, Check(), Outcome.EMPTY),
        ("a", {"output_tokens": 0}, Check(exact_tokens=3), Outcome.EMPTY),
        ("a", {}, Check(exact_tokens=3), Outcome.OK),
        ("a", {"output_tokens": 2}, Check(exact_tokens=3), Outcome.SHORT),
        ("a", {"output_tokens": 2}, Check(), Outcome.OK),
        ("a", {"output_tokens": 2, "usage_reported": False}, Check(exact_tokens=3), Outcome.SHORT),
        (
            "a",
            {"output_tokens": 2, "usage_reported": False, "finish_reason": "length"},
            Check(exact_tokens=3),
            Outcome.OK,
        ),
        ("a", {"output_tokens": 4}, Check(exact_tokens=3), Outcome.MALFORMED),
        ("", {}, Check(), Outcome.EMPTY),
        ("", {"output_tokens": 1}, Check(), Outcome.OK),
        ("a", {"output_tokens": -5}, Check(), Outcome.MALFORMED),
        ("a", {"output_tokens": True}, Check(), Outcome.MALFORMED),
        ("a", {"output_tokens": 2**64 - 1}, Check(), Outcome.MALFORMED),
        ("a", {"input_tokens": -1}, Check(), Outcome.MALFORMED),
        ("가\ufffd다", {}, Check(), Outcome.BAD_TEXT),
        ("가\ufffd다", {"output_tokens": 3}, Check(exact_tokens=3), Outcome.OK),
        ("가나\ufffd", {}, Check(), Outcome.BAD_TEXT),
        ("가나\ufffd", {"finish_reason": "length"}, Check(), Outcome.OK),
        ("가\ufffd나\ufffd", {"finish_reason": "length"}, Check(), Outcome.BAD_TEXT),
        ("서울", {}, Check(golden="서울"), Outcome.OK),
        ("서울.", {}, Check(golden="서울"), Outcome.BAD_TEXT),
        ("서", {}, Check(golden="서울"), Outcome.BAD_TEXT),
        ('{"name":"가","age":3}', {}, Check(json_schema=_SCHEMA), Outcome.OK),
        ('{"name":"가","age":-3}', {}, Check(json_schema=_SCHEMA), Outcome.BAD_JSON),
        ('{"age":3}', {}, Check(json_schema=_SCHEMA), Outcome.BAD_JSON),
        ('{"name":"가"', {}, Check(json_schema=_SCHEMA), Outcome.BAD_JSON),
        ('{"name":"가","age":NaN}', {}, Check(json_schema=_SCHEMA), Outcome.BAD_JSON),
        ('```json\n{"name":"가"}\n```', {}, Check(json_schema=_SCHEMA), Outcome.BAD_JSON),
        ("[" * 900 + "]" * 900, {}, Check(json_schema={"items": {"$ref": "#"}}), Outcome.BAD_JSON),
        ("{}", {}, Check(json_schema={"$ref": "http://127.0.0.1:9/x.json"}), Outcome.BAD_JSON),
    ],
)
def test_what_a_text_is(text: str, fields: dict[str, Any], check: Check, outcome: Outcome) -> None:
    found, detail = _judged(Answer(text), check, **fields)
    assert found is outcome
    assert bool(detail) == (outcome is not Outcome.OK)


@pytest.mark.parametrize(
    ("calls", "outcome"),
    [
        ((ToolCall("c", "find", '{"city":"서울"}'),), Outcome.OK),
        ((ToolCall("b", "other", "?"), ToolCall("c", "find", "{}")), Outcome.OK),
        ((), Outcome.BAD_JSON),
        ((ToolCall("c", "search", "{}"),), Outcome.BAD_JSON),
        ((ToolCall("c", "find", '{"city":'),), Outcome.BAD_JSON),
        ((ToolCall("c", "find", '"서울"'),), Outcome.BAD_JSON),
        ((ToolCall("c", "find", '{"city":"\ufffd"}'),), Outcome.BAD_TEXT),
    ],
)
def test_what_a_tool_call_is(calls: tuple[ToolCall, ...], outcome: Outcome) -> None:
    assert _judged(Answer("가", tool_calls=calls), Check(tool="find"))[0] is outcome


def test_a_count_that_is_none_is_in_no_sum_even_of_an_answer_that_failed() -> None:
    record = Record(
        0, "x", outcome=Outcome.CUT, output_tokens=2**64 - 1, usage_reported=True, event_tokens=[1, 1]
    )
    judge(record, Item("x", "g", "/v1/chat/completions", {}, 0, 3), Answer("가나"))
    assert (record.outcome, record.output_tokens, record.usage_reported) == (Outcome.CUT, 2, False)


def test_an_answer_cut_by_its_length_says_so() -> None:
    assert "max_tokens" in _judged(Answer("{"), Check(json_schema=_SCHEMA), finish_reason="length")[1]


def test_what_was_wrong_before_stays() -> None:
    assert _judged(Answer(), outcome=Outcome.CUT, output_tokens=0) == (Outcome.CUT, "")


@pytest.mark.parametrize(
    ("answer", "check"),
    [
        (Answer("hush"), Check(golden="whisper")),
        (Answer('{"hush":1}'), Check(json_schema=_SCHEMA)),
        (Answer('{"name":"hush","age":-1}'), Check(json_schema=_SCHEMA)),
        (Answer("hush\ufffd"), Check()),
        (Answer(tool_calls=(ToolCall("hush", "hush", "hush"),)), Check(tool="find")),
    ],
)
def test_what_was_generated_is_not_told(answer: Answer, check: Check) -> None:
    outcome, detail = _judged(answer, check)
    assert outcome is not Outcome.OK
    assert "hush" not in detail
    assert "whisper" not in detail
