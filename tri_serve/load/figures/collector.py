"""What is kept of a run while it goes on: in flat memory, and small enough to be sent from process to process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tri_serve.load.figures import definitions as define
from tri_serve.load.figures.samples import EXACT_SAMPLES, Samples
from tri_serve.load.figures.series import Series, Window
from tri_serve.load.figures.tallies import GroupTally, RunTally, TokenTally, VllmTally
from tri_serve.load.records import Outcome, Phase, Record
from tri_serve.spec.slo import Slo

__all__ = ["EXACT_SAMPLES", "LATENCIES", "Collector", "Window"]

LATENCIES = ("ttft", "ttft_sched", "tpot", "e2e", "e2e_sched", "icl", "itl", "max_gap")
"""Ours, by name of their definition."""
_MOST_DETAILS = 64
"""Different failure lines that are counted one by one; further ones are counted together."""
_MOST_REPLICAS = 1_024
_MOST_GROUPS = 128
_LONGEST_DETAIL = 200


class Collector:
    """Everything that a run's figures need. ``add`` each record once, when its request is over."""

    def __init__(self, window: Window, slo: Slo) -> None:
        self.window = window
        self.slo = slo
        self.stopped = False
        """Whether the run was ended before its time: what was open then had no grace."""
        self.ended: int | None = None
        """When the run was stopped, if that was before the window's end."""
        self.finished: int | None = None
        """When the last request of a number of requests had ended, if that was before the window's end."""
        self.latencies = {name: Samples() for name in LATENCIES}
        self.dispatch_lag = Samples()
        self.outcomes: Counter[str] = Counter()
        self.details: Counter[str] = Counter()
        self.details_left_out = 0
        self.replicas: Counter[str] = Counter()
        self.run = RunTally()
        self.vllm = VllmTally()
        self.input_tokens = TokenTally()
        self.output_tokens = TokenTally()
        self.groups: dict[str, GroupTally] = {}
        self.series = Series(window)

    def stop(self, at: int) -> None:
        """The run ended at ``at`` (ns): what was to come of the window did not."""
        self.stopped = True
        if at < self.window.end:
            self.ended = max(at, self.window.start)

    def finish(self, at: int) -> None:
        """Every request that was to be counted has ended, at ``at`` (ns): the window is over, as was meant.
        Nothing may run any more."""
        if at < self.window.end:
            self.finished = max(at, self.window.start)

    @property
    def until(self) -> int:
        """The end of the window as it went."""
        return self.ended or self.finished or self.window.end

    def add(self, record: Record, *, given_up: int = 0) -> None:
        """Count one request. The record is not kept. ``given_up``: when it was cancelled, if it was."""
        ended = self._ended(record)
        weight = _token_weight(record)
        answered_vllm = define.answered_vllm(record)
        self.series.add(record, ended, token_weight=weight, answered_vllm=answered_vllm)
        self.run.add(record, ended, self.window, weight)
        if record.phase is not Phase.WINDOW:
            return
        self.outcomes[record.outcome.value] += 1
        if record.detail and not record.ok:
            self._detail(record.detail[:_LONGEST_DETAIL])
        if record.replica and (record.replica in self.replicas or len(self.replicas) < _MOST_REPLICAS):
            self.replicas[record.replica] += 1
        self.dispatch_lag.record(define.dispatch_lag(record))
        self._group(record.group).add(
            record, good=define.is_good(record, self.slo), too_late=self._too_late(record, given_up or ended)
        )
        if answered_vllm or record.outcome not in (Outcome.UNSENT, Outcome.CANCELLED):
            self.vllm.add(record, ended, self.window, self.slo, answered=answered_vllm)
        if record.ok:
            self._answered(record)

    def _too_late(self, record: Record, given_up: int) -> bool:
        """Whether a request that was cancelled can be called good no more."""
        if record.outcome is not Outcome.CANCELLED or not record.dispatched:
            return False
        # One that never got its connection within the grace hangs as well.
        hung = not self.stopped and not record.first_token
        self.run.hung += hung
        return hung or define.cannot_be_good(record, self.slo, given_up)

    def _ended(self, record: Record) -> int:
        """When it was over; one cancelled without a time lasted at least until the window's end; 0: never sent."""
        if not record.sent:
            return 0
        last = max(record.sent, record.head, record.last, record.last_choice)
        if record.outcome is Outcome.CANCELLED:
            return record.done or max(last, self.until)
        return record.done or last

    def _detail(self, detail: str) -> None:
        if detail in self.details or len(self.details) < _MOST_DETAILS:
            self.details[detail] += 1
        else:
            self.details_left_out += 1

    def _group(self, name: str) -> GroupTally:
        group = self.groups.get(name)
        if group is None:
            if len(self.groups) >= _MOST_GROUPS:
                name = "(others)"
            # Not setdefault: a tally is a megabyte, and would be made for each request.
            group = self.groups[name] = self.groups.get(name) or GroupTally()
        return group

    def _answered(self, record: Record) -> None:
        latencies = self.latencies
        latencies["ttft"].record(define.ttft(record))
        latencies["ttft_sched"].record(define.ttft_sched(record))
        latencies["tpot"].record(define.tpot(record))
        latencies["e2e"].record(define.e2e(record))
        latencies["e2e_sched"].record(define.e2e_sched(record))
        gaps = list(define.icl(record))
        latencies["icl"].record_all(gaps)
        latencies["itl"].record_all(gap for gap, tokens in define.itl(record) for _ in range(tokens))
        latencies["max_gap"].record(max(gaps, default=None))
        if record.usage_reported:
            self.input_tokens.add(record.intended_input_tokens, record.input_tokens)
            self.output_tokens.add(record.intended_output_tokens, record.output_tokens)

    def to_message(self, *, exact: bool = True) -> dict[str, Any]:
        """As JSON, for ``merge``. Without ``exact`` it has no single samples: some tens of kB, for progress."""
        return {
            "window": [self.window.start, self.window.end, self.window.begins],
            "slo": self.slo.model_dump(),
            "ended": self.ended,
            "stopped": self.stopped,
            "finished": self.finished,
            "latencies": {name: it.to_message(exact=exact) for name, it in self.latencies.items()},
            "dispatch_lag": self.dispatch_lag.to_message(exact=exact),
            "outcomes": dict(self.outcomes),
            "details": dict(self.details),
            "details_left_out": self.details_left_out,
            "replicas": dict(self.replicas),
            "run": self.run.to_message(),
            "vllm": self.vllm.to_message(exact=exact),
            "input_tokens": self.input_tokens.to_message(),
            "output_tokens": self.output_tokens.to_message(),
            "groups": {name: group.to_message(exact=exact) for name, group in self.groups.items()},
            "series": self.series.to_message(),
        }

    @classmethod
    def merge(cls, messages: Iterable[dict[str, Any]]) -> Collector:
        """One collector of what several processes sent. All must have had the same window; at least one message.

        Raises ValueError where windows differ or nothing is given: figures of different windows add up to nothing.
        """
        merged: Collector | None = None
        for message in messages:
            window = Window(*message["window"])
            if merged is None:
                merged = cls(window, Slo(**message["slo"]))
                merged.finished = message["finished"]
            elif merged.window != window:
                raise ValueError(f"collectors of different windows: {merged.window} and {window}")
            merged._take(message)
        if merged is None:
            raise ValueError("no message to merge")
        return merged

    def _take(self, message: dict[str, Any]) -> None:
        self.stopped = self.stopped or message["stopped"]
        finished = message["finished"]
        # The whole number is reached when the last process has its part of it.
        self.finished = None if None in (self.finished, finished) else max(self.finished or 0, finished)
        if message["ended"] is not None:
            self.ended = min(message["ended"], self.ended or message["ended"])
        for name, samples in message["latencies"].items():
            self.latencies[name].merge(Samples.from_message(samples))
        self.dispatch_lag.merge(Samples.from_message(message["dispatch_lag"]))
        self.outcomes.update(message["outcomes"])
        for detail, times in message["details"].items():
            if detail in self.details or len(self.details) < _MOST_DETAILS:
                self.details[detail] += times
            else:
                self.details_left_out += times
        self.details_left_out += message["details_left_out"]
        self.replicas.update(message["replicas"])
        self.run.take(message["run"])
        self.vllm.take(message["vllm"])
        self.input_tokens.take(message["input_tokens"])
        self.output_tokens.take(message["output_tokens"])
        for name, group in message["groups"].items():
            self._group(name).take(group)
        self.series.take(message["series"])


def _token_weight(record: Record) -> float:
    """What one token of the events stands for, so that they add up to ``usage``: some tokens bear no text alone."""
    counted = sum(record.event_tokens)
    if not counted or not record.usage_reported or record.output_tokens <= 0:
        return 1.0
    return record.output_tokens / counted
