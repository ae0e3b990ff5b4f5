"""What an answer says, and what of it goes into the record: OpenAI's chat completions and completions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from tri_serve.load.records import Outcome, Record
from tri_serve.load.wire.wording import error_line, name_of

_GIVEN_UP = frozenset({"abort", "error"})
"""Finish reasons by which vLLM says that it stopped before the answer was whole (vllm/v1/request.py, 0.32)."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that the model wants made."""

    id: str
    name: str
    arguments: str
    """JSON, if the model kept to its word."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was generated. It goes to the checks and, in a conversation, into the next turn; never into a result."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def message(self) -> dict[str, Any]:
        """As the next turn of a chat repeats it."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in self.tool_calls
            ]
        return message


class Folder:
    """Folds the events of one stream, or one whole answer, into a record. It judges no more than whether the answer
    is whole; ``verdict`` says so at the end."""

    __slots__ = ("_calls", "_done", "_error", "_malformed", "_reasoning", "_record", "_tell", "_text")

    def __init__(self, record: Record, tell: Callable[[Any], str] = error_line) -> None:
        """``tell`` makes a line of an error object."""
        self._record = record
        self._tell = tell
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, list[str]] = {}
        self._done = False
        self._error = ""
        self._malformed = ""

    def add_events(self, events: Iterable[tuple[bytes, int]]) -> None:
        """Each event's payload and the time at which it was read."""
        for payload, now in events:
            if self._done:
                continue
            if payload == b"[DONE]":
                self._done = True
                continue
            self._record.last = now
            try:
                value = orjson.loads(payload)
            except orjson.JSONDecodeError:
                self._malformed = self._malformed or "an event is not JSON"
                continue
            if isinstance(value, dict):
                self._add_event(value, now)
            else:
                self._malformed = self._malformed or "an event is no JSON object"

    def add_whole(self, body: bytes, now: int, *, unasked: bool) -> None:
        """An answer that was not streamed; ``unasked``: though a stream was asked for."""
        record = self._record
        record.last = now
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            self._malformed = "the answer is no JSON object"
            return
        self._done = True
        for choice in _objects(value.get("choices")):
            message = choice.get("message")
            # A whole answer is one event that holds everything.
            self._add_event({"choices": [{**choice, "delta": message}], "usage": value.get("usage")}, now)
        if value.get("error"):
            self._error = self._tell(value)
        self._take_usage(value.get("usage"))
        if unasked:
            self._malformed = "the answer came whole, where a stream was asked for"

    @property
    def answer(self) -> Answer:
        """What was generated so far."""
        calls = tuple(ToolCall(*self._calls[index]) for index in sorted(self._calls))
        return Answer("".join(self._text), "".join(self._reasoning), calls)

    def verdict(self) -> tuple[Outcome, str]:
        """Whether the answer is whole, by what it said, and what is wrong if it is not."""
        record = self._record
        if self._error:
            return Outcome.IN_BAND_ERROR, self._error
        if self._malformed:
            return Outcome.MALFORMED, self._malformed
        if not self._done:
            return Outcome.CUT, "the stream ended without [DONE]"
        if record.finish_reason in _GIVEN_UP:
            return Outcome.CUT, f"the server gave the answer up: finish reason {record.finish_reason}"
        if not record.finish_reason:
            return Outcome.CUT, "the answer has no finish reason"
        return Outcome.OK, ""

    def close(self) -> None:
        """No more comes: what the server did not report is counted from the events."""
        if not self._record.usage_reported:
            self._record.output_tokens = sum(self._record.event_tokens)

    def _add_event(self, value: dict[str, Any], now: int) -> None:
        choices = value.get("choices")
        if choices and isinstance(choices, list):
            record = self._record
            tokens = 0
            for choice in _objects(choices):
                tokens += self._add_choice(choice)
            if not record.first_choice:
                record.first_choice = now
            record.last_choice = now
            record.event_times.append(now)
            record.event_tokens.append(tokens)
            if tokens and not record.first_token:
                record.first_token = now
        if value.get("error"):
            self._error = self._error or self._tell(value)
        usage = value.get("usage")
        if usage:
            self._take_usage(usage)

    def _add_choice(self, choice: Mapping[str, Any]) -> int:
        """The tokens in it."""
        bears = False
        delta = choice.get("delta")
        if isinstance(delta, dict):
            content = delta.get("content") or delta.get("refusal")
            if content and isinstance(content, str):
                self._text.append(content)
                bears = True
            thought = delta.get("reasoning") or delta.get("reasoning_content")
            if thought and isinstance(thought, str):
                self._reasoning.append(thought)
                bears = True
            calls = delta.get("tool_calls")
            if calls and isinstance(calls, list):
                self._add_calls(calls)
                bears = True
        else:
            text = choice.get("text")
            if text and isinstance(text, str):
                self._text.append(text)
                bears = True
        reason = choice.get("finish_reason")
        if isinstance(reason, str):
            self._record.finish_reason = name_of(reason) or "unreadable"
        ids = choice.get("token_ids")
        return len(ids) if isinstance(ids, list) else int(bears)

    def _add_calls(self, calls: list[Any]) -> None:
        for place, call in enumerate(_objects(calls)):
            index = call.get("index", place)
            function = call.get("function")
            if not isinstance(index, int) or not isinstance(function, dict):
                continue
            known = self._calls.setdefault(index, ["", "", ""])
            for slot, part in enumerate((call.get("id"), function.get("name"), function.get("arguments"))):
                if isinstance(part, str):
                    known[slot] += part

    def _take_usage(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        record = self._record
        output = usage.get("completion_tokens")
        if isinstance(output, int):
            record.output_tokens = output
            record.usage_reported = True
        given = usage.get("prompt_tokens")
        if isinstance(given, int):
            record.input_tokens = given
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        if isinstance(cached, int):
            record.cached_tokens = cached


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
