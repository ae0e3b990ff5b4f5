"""Whether a whole answer is a right one. Pure: a record, what was asked, what was said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from tri_serve.load.records import Outcome, Record
from tri_serve.load.wire.answer import Answer
from tri_serve.load.workload.items import Check, Item

_MOST_TOKENS = 2**31 - 1
"""No context is nearly as long."""
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def judge(record: Record, item: Item, answer: Answer) -> None:
    """Set ``record.outcome`` and ``detail`` if the answer is wrong; a record that is not OK stays as it is.

    The detail never repeats what was generated: results are shown to people who may not see prompts and answers.
    """
    unbelievable = _unbelievable(record)
    if record.outcome is not Outcome.OK:
        return
    found = (
        unbelievable
        or _empty(record, answer)
        or _short(record, item.check)
        or _damaged(record, item.check, answer)
        or _not_golden(item.check, answer)
        or _not_schema(record, item.check, answer)
        or _not_called(record, item.check, answer)
    )
    if found is not None:
        record.outcome, record.detail = found


_Found = tuple[Outcome, str] | None


def _unbelievable(record: Record) -> _Found:
    """``usage`` that counts no tokens. It is taken out of the record, whatever became of the request: one such
    number would be the run's whole throughput."""
    wrong = ""
    for name, said in (
        ("output_tokens", "completion_tokens"),
        ("input_tokens", "prompt_tokens"),
        ("cached_tokens", "cached_tokens"),
    ):
        value = getattr(record, name)
        # true is an int for Python.
        if isinstance(value, bool) or not 0 <= value <= _MOST_TOKENS:
            wrong = wrong or f"usage.{said} is no number of tokens"
            setattr(record, name, 0)
            if name == "output_tokens":
                record.output_tokens, record.usage_reported = sum(record.event_tokens), False
    return (Outcome.MALFORMED, wrong) if wrong else None


def _empty(record: Record, answer: Answer) -> _Found:
    if record.output_tokens == 0:
        return Outcome.EMPTY, f"not one token; finish reason {record.finish_reason}"
    # A model may say nothing but its end.
    if record.output_tokens == 1 or answer.text or answer.reasoning or answer.tool_calls:
        return None
    return Outcome.EMPTY, f"no text, no reasoning and no call in {record.output_tokens} tokens"


def _short(record: Record, check: Check) -> _Found:
    wanted = check.exact_tokens
    if wanted is None:
        return None
    if record.usage_reported:
        if record.output_tokens == wanted:
            return None
        if record.output_tokens > wanted:
            return (
                Outcome.MALFORMED,
                f"usage says {record.output_tokens} tokens, where max_tokens was {wanted}",
            )
        return Outcome.SHORT, f"{record.output_tokens} of {wanted} tokens"
    # An event can hold several tokens, so that counted events prove nothing; only the length ends such an answer.
    if record.finish_reason == "length":
        return None
    return Outcome.SHORT, f"finish reason {record.finish_reason} under ignore_eos, and no usage was reported"


def _damaged(record: Record, check: Check, answer: Answer) -> _Found:
    for text in (answer.text, answer.reasoning, *(call.arguments for call in answer.tool_calls)):
        if record.finish_reason == "length":
            # max_tokens may end between the bytes of one character: that is what was asked for.
            text = text.rstrip(_REPLACEMENT)
        count = text.count(_REPLACEMENT)
        if check.exact_tokens is not None:
            record.replacements += count
        elif count:
            return (
                Outcome.BAD_TEXT,
                f"U+FFFD {count} times, the first after {text.index(_REPLACEMENT)} characters",
            )
    return None


def _not_golden(check: Check, answer: Answer) -> _Found:
    wanted = check.golden
    if wanted is None or answer.text == wanted:
        return None
    pairs = zip(answer.text, wanted, strict=False)
    at = next((n for n, (came, due) in enumerate(pairs) if came != due), min(len(answer.text), len(wanted)))
    return (
        Outcome.BAD_TEXT,
        f"differs from the golden answer from character {at} on ({len(answer.text)} of {len(wanted)} characters)",
    )


def _not_schema(record: Record, check: Check, answer: Answer) -> _Found:
    if check.json_schema is None:
        return None
    try:
        value = orjson.loads(answer.text)
    except orjson.JSONDecodeError:
        return Outcome.BAD_JSON, _no_json("the answer", record)
    wrong = _first_mistake(check.json_schema, value)
    return None if wrong is None else (Outcome.BAD_JSON, wrong)


def _not_called(record: Record, check: Check, answer: Answer) -> _Found:
    if check.tool is None:
        return None
    calls = [call for call in answer.tool_calls if call.name == check.tool]
    if not calls:
        return Outcome.BAD_JSON, f"no call of {check.tool} among {len(answer.tool_calls)} tool calls"
    for call in calls:
        try:
            arguments = orjson.loads(call.arguments)
        except orjson.JSONDecodeError:
            return Outcome.BAD_JSON, _no_json(f"what {check.tool} is called with", record)
        if not isinstance(arguments, dict):
            return Outcome.BAD_JSON, f"what {check.tool} is called with is no JSON object"
    return None


def _no_json(what: str, record: Record) -> str:
    cut = ": max_tokens cut it" if record.finish_reason == "length" else ""
    return f"{what} is not JSON{cut}"


def _first_mistake(schema: Mapping[str, Any], value: Any) -> str | None:
    # A command line that asks for no JSON should not pay for it.
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # The empty registry keeps a $ref from being fetched from the network.
    validator = validator_for(schema)(schema, registry=Registry())
    try:
        error = next(validator.iter_errors(value), None)
    except Unresolvable:
        return "the schema refers to something that it does not hold"
    except RecursionError:
        return "the answer is nested too deep to be checked"
    if error is None:
        return None
    # The place and the rule by the schema's own words: the error's message repeats what was generated, and a
    # property's name may be generated, too.
    rule = "/".join(str(part) for part in error.absolute_schema_path)
    return f"the answer breaks the schema at {rule or 'its root'}"
