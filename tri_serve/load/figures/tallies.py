"""Sums over requests: of the whole run, of one part of the workload, of tokens, and as vLLM sums them."""

from __future__ import annotations

import base64
import zlib
from array import array
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from tri_serve.load.figures import definitions as define
from tri_serve.load.figures.samples import EXACT_SAMPLES, Samples
from tri_serve.load.figures.series import Window
from tri_serve.load.records import Outcome, Phase, Record
from tri_serve.spec.slo import Slo

GROUP_LATENCIES = ("ttft", "ttft_sched", "tpot", "e2e")
"""Kept for each part of the workload."""
VLLM_LATENCIES = ("ttft", "tpot", "itl", "e2el")

_FIRST = 2**63 - 1


@dataclass(slots=True)
class RunTally:
    """Sums over the run in all its phases, and over what lies in the window by time. Times in ns."""

    first_dispatch: int = _FIRST
    last_completion: int = 0
    answered: int = 0
    answered_output_tokens: int = 0
    answered_input_tokens: int = 0
    sent: int = 0
    """Requests of the window that were sent."""
    reused: int = 0
    cached_tokens: int = 0
    with_replacements: int = 0
    """Answered with U+FFFD, where that is not judged."""
    completed_in_window: int = 0
    """Answered within it, whenever they were due."""
    residence_ns: int = 0
    """Sent → ended, summed over every request that ended in the window."""
    ended_in_window: int = 0
    open_ns: int = 0
    """Time that requests were open within the window, summed."""
    output_tokens: float = 0.0
    """By events in the window, of requests that were answered, or cancelled at the end."""
    delivered_tokens: float = 0.0
    """The same of every request: what the server's own counter saw too."""
    input_tokens: int = 0
    """Of requests whose first token came in the window."""
    first_half_ttft_ns: int = 0
    """Sent → first token, summed over first tokens in the window's first half; as engines' histograms see it."""
    first_half: int = 0
    second_half_ttft_ns: int = 0
    second_half: int = 0
    without_usage: int = 0
    """Answered, with no ``usage``: their events were counted for tokens."""
    event_tokens: int = 0
    """In events of answers with ``usage``."""
    usage_tokens: int = 0
    """By their ``usage``."""
    hung: int = 0
    """Sent in the window, and without a first token when the run's grace was over."""
    early_ttft_ns: int = 0
    """Due → first token, summed over answered requests due in the window's first half."""
    early: int = 0
    late_ttft_ns: int = 0
    late: int = 0

    def add(self, record: Record, ended: int, window: Window, weight: float) -> None:
        """Count a request that was over at ``ended``; 0: it was never sent."""
        if not ended:
            return
        self.first_dispatch = min(self.first_dispatch, record.dispatched or record.sent)
        self.last_completion = max(self.last_completion, ended)
        if record.ok:
            self.answered += 1
            self.answered_output_tokens += record.output_tokens
            self.answered_input_tokens += record.input_tokens
        self.open_ns += max(0, min(ended, window.end) - max(record.sent, window.start))
        if window.start <= ended < window.end and record.outcome is not Outcome.CANCELLED:
            self.ended_in_window += 1
            self.residence_ns += ended - record.sent
            self.completed_in_window += record.ok
        self._tokens(record, window, weight)
        if record.phase is Phase.WINDOW:
            self.sent += 1
            self.reused += record.reused
            self.cached_tokens += record.cached_tokens if record.ok else 0
            self.with_replacements += record.ok and record.replacements > 0
            self._growth(record, window)
            if record.ok and record.usage_reported:
                self.event_tokens += sum(record.event_tokens)
                self.usage_tokens += record.output_tokens
            elif record.ok:
                self.without_usage += 1

    def _tokens(self, record: Record, window: Window, weight: float) -> None:
        tokens = weight * sum(
            tokens
            for at, tokens in zip(record.event_times, record.event_tokens, strict=False)
            if window.start <= at < window.end
        )
        self.delivered_tokens += tokens
        if record.ok or record.outcome is Outcome.CANCELLED:
            self.output_tokens += tokens
        ttft = define.ttft(record)
        if ttft is None or not window.start <= record.first_token < window.end:
            return
        self.input_tokens += record.input_tokens
        if record.first_token < window.middle:
            self.first_half += 1
            self.first_half_ttft_ns += ttft
        else:
            self.second_half += 1
            self.second_half_ttft_ns += ttft

    def _growth(self, record: Record, window: Window) -> None:
        ttft = define.ttft_sched(record)
        if ttft is None or not record.ok:
            return
        if record.scheduled < window.middle:
            self.early += 1
            self.early_ttft_ns += ttft
        else:
            self.late += 1
            self.late_ttft_ns += ttft

    def to_message(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def take(self, message: dict[str, Any]) -> None:
        """Add what ``to_message`` gave."""
        first, last = message["first_dispatch"], message["last_completion"]
        self.first_dispatch = min(self.first_dispatch, first)
        self.last_completion = max(self.last_completion, last)
        for name, value in message.items():
            if name not in ("first_dispatch", "last_completion"):
                setattr(self, name, getattr(self, name) + value)


@dataclass(slots=True)
class TokenTally:
    """Tokens intended against tokens reported."""

    requests: int = 0
    intended: int = 0
    reported: int = 0
    exact: int = 0
    largest_difference: int = 0

    def add(self, intended: int, reported: int) -> None:
        """Count one request, if both are known."""
        if intended <= 0 or reported <= 0:
            return
        self.requests += 1
        self.intended += intended
        self.reported += reported
        self.exact += intended == reported
        self.largest_difference = max(self.largest_difference, abs(intended - reported))

    def to_message(self) -> dict[str, int]:
        """As JSON."""
        return asdict(self)

    def take(self, message: dict[str, int]) -> None:
        """Add what ``to_message`` gave."""
        self.requests += message["requests"]
        self.intended += message["intended"]
        self.reported += message["reported"]
        self.exact += message["exact"]
        self.largest_difference = max(self.largest_difference, message["largest_difference"])


class GroupTally:
    """One part of the workload, over the window."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.good = 0
        self.too_late = 0
        """Cancelled, when they had already broken a promise."""
        self.output_tokens = 0
        self.latencies = {name: Samples() for name in GROUP_LATENCIES}

    def add(self, record: Record, *, good: bool, too_late: bool = False) -> None:
        """Count one request of it."""
        self.outcomes[record.outcome.value] += 1
        self.good += good
        self.too_late += too_late
        if record.ok:
            self.output_tokens += record.output_tokens
            self.latencies["ttft"].record(define.ttft(record))
            self.latencies["ttft_sched"].record(define.ttft_sched(record))
            self.latencies["tpot"].record(define.tpot(record))
            self.latencies["e2e"].record(define.e2e(record))

    def to_message(self, *, exact: bool) -> dict[str, Any]:
        """As JSON."""
        return {
            "outcomes": dict(self.outcomes),
            "good": self.good,
            "too_late": self.too_late,
            "output_tokens": self.output_tokens,
            "latencies": {name: it.to_message(exact=exact) for name, it in self.latencies.items()},
        }

    def take(self, message: dict[str, Any]) -> None:
        """Add what ``to_message`` gave."""
        self.outcomes.update(message["outcomes"])
        self.good += message["good"]
        self.too_late += message["too_late"]
        self.output_tokens += message["output_tokens"]
        for name, samples in message["latencies"].items():
            self.latencies[name].merge(Samples.from_message(samples))


class VllmTally:
    """The window's requests as ``calculate_metrics`` of vLLM 0.32 has them (vllm/benchmarks/serve.py)."""

    def __init__(self) -> None:
        self.last_completion = 0
        self.completed = 0
        self.failed = 0
        self.good = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.latencies = {name: Samples() for name in VLLM_LATENCIES}
        self.spans: array[int] | None = array("q")
        """Start and last event of each, one after the other, in ns from the window's start; None: too many."""
        self.events: array[int] | None = array("q")
        """When each event with choices came; likewise."""

    def add(self, record: Record, ended: int, window: Window, slo: Slo, *, answered: bool) -> None:
        """Count a request that was sent and is over."""
        self.last_completion = max(self.last_completion, ended)
        if not answered:
            self.failed += 1
            return
        self.completed += 1
        self.good += define.is_good_vllm(record, slo)
        self.input_tokens += record.input_tokens or record.intended_input_tokens
        self.output_tokens += define.output_tokens_vllm(record)
        self.latencies["ttft"].record(define.ttft_vllm(record))
        self.latencies["tpot"].record(define.tpot_vllm(record))
        self.latencies["itl"].record_all(define.itl_vllm(record))
        self.latencies["e2el"].record(define.e2el_vllm(record))
        if self.spans is not None and self.events is not None:
            self.spans.extend((record.sent - window.start, record.last_choice - window.start))
            self.events.extend(at - window.start for at in record.event_times)
            self._bound()

    def _bound(self) -> None:
        if self.events is not None and len(self.events) > EXACT_SAMPLES:
            self.spans = self.events = None

    def to_message(self, *, exact: bool) -> dict[str, Any]:
        """As JSON."""
        message: dict[str, Any] = {name: getattr(self, name) for name in _VLLM_SUMS}
        message["last_completion"] = self.last_completion
        message["latencies"] = {name: it.to_message(exact=exact) for name, it in self.latencies.items()}
        if exact and self.spans is not None and self.events is not None:
            message["spans"], message["events"] = _packed(self.spans), _packed(self.events)
        return message

    def take(self, message: dict[str, Any]) -> None:
        """Add what ``to_message`` gave."""
        for name in _VLLM_SUMS:
            setattr(self, name, getattr(self, name) + message[name])
        self.last_completion = max(self.last_completion, message["last_completion"])
        for name, samples in message["latencies"].items():
            self.latencies[name].merge(Samples.from_message(samples))
        if self.spans is not None and self.events is not None and "spans" in message:
            self.spans.frombytes(zlib.decompress(base64.b85decode(message["spans"])))
            self.events.frombytes(zlib.decompress(base64.b85decode(message["events"])))
            self._bound()
        else:
            self.spans = self.events = None


_VLLM_SUMS = ("completed", "failed", "good", "input_tokens", "output_tokens")


def _packed(values: array[int]) -> str:
    return base64.b85encode(zlib.compress(values.tobytes(), 1)).decode("ascii")
