"""An answer as a script: what goes out when, faults included. Pure; the pacer plays it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from enum import Enum
from itertools import chain

from .answer import Rendering
from .ask import Ask
from .openai_dialects import DONE
from .rendering import error_object
from .settings import Timing

LAST_CHUNK = b"0\r\n\r\n"
# Long enough for what was written before to have left the process and been read on loopback: a reset throws
# away what the kernel still holds.
_LEAVE = 0.02
_SPLIT_GAP = 0.001


class Act(Enum):
    """What a script can do besides writing bytes."""

    FINISH = "finish"
    """The answer is complete; the connection may serve another."""
    CLOSE = "close"
    """FIN."""
    RESET = "reset"
    """RST."""
    STALL = "stall"
    """Silence until the client leaves."""
    EXIT = "exit"
    """The process ends at once, as by SIGKILL."""


Step = tuple[float, bytes | Act]
"""Seconds after arrival, and what happens then."""


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream_script(
    ask: Ask, rendering: Rendering, timing: Timing, rng: random.Random | None, on_token: Callable[[], None]
) -> Iterator[Step]:
    """The body of a streamed answer, from after its head. ``on_token`` is called as each token is made."""
    events = _events(ask, rendering, timing, rng, on_token)
    fault = ask.fault
    if fault.no_done:
        events = (step for step in events if step[1] != DONE)
    if fault.error_event is not None:
        events = _error_after(events, fault.error_event)
    body = _framed(events, fault.coalesce or 1)
    for act, count in (
        (Act.RESET, fault.reset_after),
        (Act.CLOSE, fault.close_after),
        (Act.STALL, fault.stall_after),
        (Act.EXIT, fault.die_after),
    ):
        if count is not None:
            body = _cut(body, act, count, timing.ttft)
    if fault.cut_inside is not None:
        body = _cut_inside(body, fault.cut_inside)
    if fault.bad_chunk is not None:
        body = _bad_chunk(body, fault.bad_chunk)
    if fault.split:
        body = _split(body)
    return body


def whole_script(ask: Ask, head: bytes, body: bytes, timing: Timing) -> Iterator[Step]:
    """An answer that is not streamed: everything at the time of its last token.

    Without events to count, a fault "after N events" means: at that time, instead of the answer.
    """
    due = timing.ttft + (ask.length - 1) * timing.itl
    fault = ask.fault
    response = head + body
    for act, count in (
        (Act.RESET, fault.reset_after),
        (Act.CLOSE, fault.close_after),
        (Act.STALL, fault.stall_after),
        (Act.EXIT, fault.die_after),
    ):
        if count is not None:
            yield (due, act)
            return
    if fault.cut_inside is not None:
        yield (due, response[: -(len(body) // 2)])
        yield (due + _LEAVE, Act.RESET)
        return
    if fault.split:
        yield from _split(iter([(due, response), (due, Act.FINISH)]))
        return
    yield (due, response)
    if fault.lie_length:
        # Promised more than was sent: only the end of the connection tells. Promised less: the rest is on the
        # wire, where the next answer should begin.
        yield (due + _LEAVE, Act.CLOSE)
        return
    yield (due, Act.FINISH)


def _events(
    ask: Ask, rendering: Rendering, timing: Timing, rng: random.Random | None, on_token: Callable[[], None]
) -> Iterator[tuple[float, bytes]]:
    due = timing.ttft
    gap = timing.itl
    late = timing.jitter
    if rng is not None:
        due += rng.random() * late * due
    for event in rendering.opening:
        yield (due, event)
    token = rendering.token
    first = due
    for k in range(ask.length):
        due = first + k * gap
        if rng is not None and k:
            due += rng.random() * late * gap
        yield (due, token(k))
        on_token()
    for event in rendering.closing:
        yield (due, event)


def _framed(events: Iterator[tuple[float, bytes]], together: int) -> Iterator[Step]:
    due = 0.0
    if together == 1:
        for due, event in events:
            yield (due, b"%x\r\n%b\r\n" % (len(event), event))
    else:
        held: list[bytes] = []
        for due, event in events:
            held.append(event)
            if len(held) == together:
                yield (due, chunk(b"".join(held)))
                held.clear()
        if held:
            yield (due, chunk(b"".join(held)))
    yield (due, LAST_CHUNK)
    yield (due, Act.FINISH)


def _cut(body: Iterator[Step], act: Act, count: int, before: float) -> Iterator[Step]:
    due = before
    for _ in range(count):
        step = next(body)
        due = step[0]
        yield step
        if step[1] is Act.FINISH:
            return
    yield (due + _LEAVE, act)


def _cut_inside(body: Iterator[Step], number: int) -> Iterator[Step]:
    for _ in range(number - 1):
        yield next(body)
    due, data = next(body)
    if isinstance(data, bytes):
        yield (due, data[: len(data) // 2])
    yield (due + _LEAVE, Act.RESET)


def _bad_chunk(body: Iterator[Step], number: int) -> Iterator[Step]:
    for _ in range(number - 1):
        yield next(body)
    due, _ = next(body)
    yield (due, b"zz;\r\nnot a chunk\r\n")
    yield (due + _LEAVE, Act.CLOSE)


def _error_after(events: Iterator[tuple[float, bytes]], count: int) -> Iterator[tuple[float, bytes]]:
    due = 0.0
    for _, (due, event) in zip(range(count), events, strict=False):
        yield (due, event)
    error = error_object(500, "InternalServerError", "Internal server error")
    yield from chain([(due, b"data: " + error + b"\n\n"), (due, DONE)])


def _split(body: Iterator[Step]) -> Iterator[Step]:
    for due, data in body:
        if isinstance(data, Act):
            yield (due, data)
            continue
        third = max(1, len(data) // 3)
        for index, start in enumerate(range(0, len(data), third)):
            yield (due + index * _SPLIT_GAP, data[start : start + third])
