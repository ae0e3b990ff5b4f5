"""The words in which a request, a flag or a test asks the mock engine to misbehave.

``word[=value]``, joined by commas: ``reset-after=3,split``. docs/mock-engine.md says what each does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from tri_serve.errors import UsageError

from .settings import Timing

_N = TypeVar("_N", int, float)

_COUNTS = frozenset(
    {
        "reset-after",
        "cut-inside",
        "close-after",
        "stall-after",
        "error-event",
        "die-after",
        "bad-chunk",
        "coalesce",
    }
)
_FLAGS = frozenset({"reset-before", "stall-before", "garbage", "slow-head", "split", "no-done"})
_TIMING = frozenset({"ttft-ms", "itl-ms", "jitter"})
_OTHERS = frozenset({"status", "lie-length", "finish", "tokens"})
FAULT_WORDS = tuple(sorted(_COUNTS | _FLAGS | _TIMING | _OTHERS))


@dataclass(frozen=True, slots=True)
class Fault:
    """What one request meets. Counts are of SSE events, from 1; 0 is before the first of them."""

    status: int | None = None
    reset_before: bool = False
    reset_after: int | None = None
    cut_inside: int | None = None
    close_after: int | None = None
    stall_before: bool = False
    stall_after: int | None = None
    lie_length: int | None = None
    """Bytes by which Content-Length differs from the body of a non-streaming answer."""
    garbage: bool = False
    bad_chunk: int | None = None
    slow_head: bool = False
    error_event: int | None = None
    finish: str | None = None
    die_after: int | None = None
    coalesce: int | None = None
    split: bool = False
    no_done: bool = False
    tokens: int | None = None
    """No fault: the answer's length, where the request should not say it."""
    ttft_ms: float | None = None
    itl_ms: float | None = None
    jitter: float | None = None

    def timing(self, default: Timing) -> Timing:
        """The engine's timing with this request's own wishes in it."""
        return Timing(
            ttft=default.ttft if self.ttft_ms is None else self.ttft_ms / 1e3,
            itl=default.itl if self.itl_ms is None else self.itl_ms / 1e3,
            jitter=default.jitter if self.jitter is None else self.jitter,
        )


def parse_fault(text: str, over: Fault = Fault()) -> Fault:
    """Read ``reset-after=3,split`` on top of another fault; raises UsageError naming the word that is wrong."""
    fault = over
    for item in filter(None, (part.strip() for part in text.split(","))):
        word, _, value = item.partition("=")
        fault = replace(fault, **{word.replace("-", "_"): _value(word, value)})
    return fault


def _value(word: str, value: str) -> Any:
    if word not in FAULT_WORDS:
        raise UsageError(f"{word!r} is no fault of the mock engine; it knows {', '.join(FAULT_WORDS)}")
    try:
        if word in _FLAGS:
            return _no_value(value)
        if word in _TIMING:
            return _at_least(0.0, float(value))
        if word in _COUNTS:
            return _at_least(0 if word.endswith("-after") or word == "error-event" else 1, int(value or "1"))
        if word == "tokens":
            return _at_least(1, int(value))
        if word == "status":
            return _status(int(value))
        if word == "lie-length":
            return int(value)
    except ValueError:
        raise UsageError(f"fault {word!r} does not take the value {value!r}") from None
    if value not in ("stop", "length", "abort"):
        raise UsageError(f"fault 'finish' takes stop, length or abort, not {value!r}")
    return value


def _at_least(least: _N, value: _N) -> _N:
    if not value >= least:
        raise ValueError
    return value


def _no_value(value: str) -> bool:
    if value:
        raise ValueError
    return True


def _status(value: int) -> int:
    if not 400 <= value <= 599:
        raise ValueError
    return value
