"""What an answer was: whole, ended by an error that says so, cut, or wrong. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .prompts import Ask

_EVENT_END = b"\n\n"
_SHOWN = 160
_WHOLE_REASONS = frozenset((None, "stop", "length"))


class Outcome(StrEnum):
    """How one request ended, as its client sees it."""

    OK = "ok"
    """All of it, to the letter."""
    ERROR_EVENT = "error_event"
    """A stream that ended by an event that says that it is incomplete; what came before was right."""
    CUT = "cut"
    """A stream that ended without [DONE] or an error event, or inside an event."""
    WRONG = "wrong"
    """Text that is not the answer's, or an answer that calls itself whole and is not."""
    STATUS = "status"
    """An error status instead of an answer."""
    REFUSED = "refused"
    """No connection."""
    LOST = "lost"
    """The connection ended before an answer began, or inside one that is not streamed."""
    SILENT = "silent"
    """Nothing more came for longer than the client waits."""


@dataclass(slots=True)
class Answer:
    """What came back for one request."""

    status: int | None = None
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False
    """HTTP says that the body is whole."""
    error: str | None = None
    """How the connection ended, if that was not in order."""
    refused: bool = False
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """An outcome and, unless all was well, what there was to see."""

    outcome: Outcome
    detail: str = ""


def classify(ask: Ask, answer: Answer) -> Verdict:
    """What ``answer`` is to who asked ``ask``."""
    if answer.refused:
        return Verdict(Outcome.REFUSED, answer.error or "")
    if answer.silent:
        return Verdict(Outcome.SILENT, f"after {len(answer.body)} bytes")
    if answer.status is None:
        return Verdict(Outcome.LOST, answer.error or "ended before the head")
    if answer.status != 200:
        return Verdict(Outcome.STATUS, f"{answer.status} {_shown(bytes(answer.body))}")
    return _classify_stream(ask, answer) if ask.stream else _classify_whole(ask, answer)


def _classify_whole(ask: Ask, answer: Answer) -> Verdict:
    if not answer.complete:
        return Verdict(Outcome.LOST, answer.error or "ended inside the answer")
    try:
        text, reason = _piece(json.loads(answer.body), "message")
    except (ValueError, KeyError, IndexError, TypeError):
        return Verdict(Outcome.WRONG, f"not an answer: {_shown(bytes(answer.body))}")
    return _compare(ask, text, reason)


def _classify_stream(ask: Ask, answer: Answer) -> Verdict:
    *events, rest = bytes(answer.body).split(_EVENT_END)
    text: list[str] = []
    reason: str | None = None
    error: str | None = None
    done = False
    for event in events:
        data = b"\n".join(
            line.removeprefix(b"data:").strip() for line in event.splitlines() if line.startswith(b"data:")
        )
        if data == b"[DONE]":
            done = True
            continue
        if not data:
            continue  # a comment
        try:
            document = json.loads(data)
            if "error" in document or document.get("type") == "error":
                error = str(document.get("error") or document.get("message"))
                continue
            if document["choices"]:
                piece, last = _piece(document, "delta")
                text.append(piece)
                reason = last or reason
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return Verdict(Outcome.WRONG, f"not an event: {_shown(data)}")
    said = "".join(text)
    if error is not None:
        if not ask.expected.startswith(said):
            return Verdict(Outcome.WRONG, f"before its error event: {_difference(ask.expected, said)}")
        return Verdict(Outcome.ERROR_EVENT, error[:_SHOWN])
    if not done or rest:
        where = f"inside an event: {_shown(rest)}" if rest else "between two events"
        return Verdict(Outcome.CUT, f"{where} ({answer.error or 'no more came'})")
    return _compare(ask, said, reason)


def _piece(document: Any, holder: str) -> tuple[str, str | None]:
    """The text in an answer or event, and its finish reason."""
    choice = document["choices"][0]
    text = choice["text"] if "text" in choice else (choice[holder].get("content") or "")
    return str(text), choice.get("finish_reason")


def _compare(ask: Ask, text: str, reason: str | None) -> Verdict:
    if reason not in _WHOLE_REASONS:
        return Verdict(Outcome.WRONG, f"finish_reason {reason!r} after {len(text)} characters")
    if text != ask.expected:
        return Verdict(Outcome.WRONG, _difference(ask.expected, text))
    return Verdict(Outcome.OK)


def _difference(expected: str, said: str) -> str:
    at = next(
        (k for k, (a, b) in enumerate(zip(expected, said, strict=False)) if a != b),
        min(len(expected), len(said)),
    )
    return f"at character {at}: {said[at : at + 30]!r} instead of {expected[at : at + 30]!r}"


def _shown(data: bytes) -> str:
    return data[:_SHOWN].decode(errors="replace").strip()
