"""What happened when: counts by slot of time, so that a report can draw them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tri_serve.load.records import Outcome, Record

_NS = 1_000_000_000
_MOST_SLOTS = 1_800
"""Slots are a second long in runs of up to half an hour, longer in longer runs: memory and charts stay small."""
_TTFT_STEP = math.log(1.05)
"""TTFTs of a slot are counted in classes 5 % apart: about 200 between 1 ms and 20 s, of which few are used."""


@dataclass(frozen=True, slots=True)
class Window:
    """What is counted, in ns on the records' clock: requests due from ``start`` until ``end``."""

    start: int
    end: int
    begins: int = 0
    """When the first request is due: before ``start`` by the warm-up. 0: at ``start``."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end - self.start) / _NS

    @property
    def middle(self) -> int:
        """Its half time."""
        return (self.start + self.end) // 2

    @property
    def slot_ns(self) -> int:
        """How long a slot of its run is: whole seconds."""
        whole = self.end - (self.begins or self.start)
        return _NS * max(1, math.ceil(whole / _NS / _MOST_SLOTS))


@dataclass(slots=True)
class SlotCounts:
    """One slot."""

    scheduled: int = 0
    sent: int = 0
    completed: int = 0
    failed: int = 0
    unsent: int = 0
    output_tokens: float = 0.0
    """Of requests that were answered, or cancelled at the end."""
    input_tokens: int = 0
    events: int = 0
    """Events with choices of answered requests; vLLM counts each as a token."""
    touched: int = 0
    """Answered requests that ran at any time of it."""
    open_ns: int = 0
    """Summed over requests: how much of it they were running."""
    ttfts: Counter[int] = field(default_factory=Counter)
    """By class."""

    def add(self, other: SlotCounts) -> None:
        """Sum up."""
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.ttfts.update(other.ttfts)

    def ttft_ms(self, percent: float) -> float | None:
        """Percentile of the slot's TTFTs, true to 5 %."""
        rank = math.ceil(percent / 100 * self.ttfts.total())
        for step in sorted(self.ttfts):
            rank -= self.ttfts[step]
            if rank <= 0:
                return math.exp(step * _TTFT_STEP)
        return None


_SUMMED = (
    "scheduled",
    "sent",
    "completed",
    "failed",
    "unsent",
    "output_tokens",
    "input_tokens",
    "events",
    "touched",
    "open_ns",
)


class Series:
    """The slots of a run, by number; slot 0 begins with the window."""

    def __init__(self, window: Window) -> None:
        self._start = window.start
        self._width = window.slot_ns
        self._slots: dict[int, SlotCounts] = {}

    def at(self, when: int) -> SlotCounts:
        """The slot in which that time lies."""
        return self._slot((when - self._start) // self._width)

    def _slot(self, number: int) -> SlotCounts:
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = SlotCounts()
        return slot

    def add(self, record: Record, ended: int, *, token_weight: float, answered_vllm: bool) -> None:
        """Count a request that ended at ``ended`` (0: it was never sent)."""
        if record.scheduled:
            due = self.at(record.scheduled)
            due.scheduled += 1
            due.unsent += record.outcome is Outcome.UNSENT
            if record.first_token > record.scheduled:
                ms = (record.first_token - record.scheduled) / 1_000_000
                due.ttfts[round(math.log(ms) / _TTFT_STEP)] += 1
        if not record.sent or not ended:
            return
        self.at(record.sent).sent += 1
        self._open(record.sent, ended, answered=answered_vllm and record.last_choice >= record.sent)
        if record.ok:
            self.at(ended).completed += 1
            self.at(record.first_token or ended).input_tokens += record.input_tokens
        elif record.outcome is not Outcome.CANCELLED:
            self.at(ended).failed += 1
        if record.ok or record.outcome is Outcome.CANCELLED:
            self._tokens(record, token_weight)
        if answered_vllm:
            for when in record.event_times:
                self.at(when).events += 1

    def _open(self, begin: int, end: int, *, answered: bool) -> None:
        first, last = (begin - self._start) // self._width, (end - self._start) // self._width
        for number in range(first, last + 1):
            slot = self._slot(number)
            left = self._start + number * self._width
            slot.open_ns += min(end, left + self._width) - max(begin, left)
            slot.touched += answered

    def _tokens(self, record: Record, weight: float) -> None:
        for when, tokens in zip(record.event_times, record.event_tokens, strict=False):
            if tokens:
                self.at(when).output_tokens += tokens * weight

    def items(self) -> list[tuple[int, SlotCounts]]:
        """Number and counts, in order of time; slots in which nothing happened are not in it."""
        return sorted(self._slots.items())

    def until(self, when: int) -> Iterable[SlotCounts]:
        """The slots of the window that were over by then."""
        whole = (when - self._start) // self._width
        return (slot for number, slot in self._slots.items() if 0 <= number < whole)

    def merge(self, other: Series) -> None:
        """Add the other's slots."""
        for number, slot in other._slots.items():
            self._slot(number).add(slot)

    def to_message(self) -> list[list[Any]]:
        """As JSON."""
        return [
            [number, *(getattr(slot, name) for name in _SUMMED), list(slot.ttfts.items())]
            for number, slot in self.items()
        ]

    def take(self, message: list[list[Any]]) -> None:
        """Add what ``to_message`` gave."""
        for number, *summed, ttfts in message:
            counts = dict(zip(_SUMMED, summed, strict=True))
            self._slot(number).add(SlotCounts(**counts, ttfts=Counter(dict(ttfts))))
