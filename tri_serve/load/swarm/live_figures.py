"""What a process says of itself while the run goes on: counts, and the latencies of its last requests.

Kept apart from the figures of the result, which are merged once, at the end: these cost next to nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

from tri_serve.load.figures.definitions import dispatch_lag, e2e, is_good, itl, tpot, ttft
from tri_serve.load.records import Outcome, Phase, Record
from tri_serve.spec.slo import Slo

_LAST = 512
"""Latest requests of a process whose latencies are shown: p99 stands on some of them, and messages stay small."""
_RATE_SECONDS = 10
"""Rates are over the last whole seconds, so many."""
_WORST = ("loop_lag_p99_ms", "cpu_share")
"""Figures of a process's own health: of all processes, that of the worst."""
_SHOWN = ("ttft", "tpot", "itl", "e2e")


class LiveCounts:
    """One process."""

    def __init__(self, slo: Slo) -> None:
        self._slo = slo
        self._outcomes: Counter[str] = Counter()
        self._scheduled = 0
        self._good = 0
        self._latest: dict[str, deque[float]] = {name: deque(maxlen=_LAST) for name in (*_SHOWN, "lag")}
        self._latest["itl"] = deque(maxlen=4 * _LAST)
        self._requests: Counter[int] = Counter()
        self._tokens: Counter[int] = Counter()

    def add(self, record: Record) -> None:
        """Count a request that has ended."""
        if record.outcome is Outcome.CANCELLED:
            return
        if record.ok:
            self._requests[record.done // 1_000_000_000] += 1
            self._count_tokens(record)
        if record.phase is not Phase.WINDOW:
            return
        self._scheduled += 1
        self._outcomes[record.outcome.value] += 1
        lag = dispatch_lag(record)
        if lag is not None:
            self._latest["lag"].append(lag / 1e6)
        if record.ok:
            self._add_latencies(record)

    def _add_latencies(self, record: Record) -> None:
        for name, figure in (("ttft", ttft), ("tpot", tpot), ("e2e", e2e)):
            value = figure(record)
            if value is not None:
                self._latest[name].append(value / 1e6)
        self._latest["itl"].extend(gap / 1e6 for gap, _ in itl(record))
        self._good += is_good(record, self._slo)

    def _count_tokens(self, record: Record) -> None:
        counted = sum(record.event_tokens)
        for at, tokens in zip(record.event_times, record.event_tokens, strict=False):
            self._tokens[at // 1_000_000_000] += tokens
        self._tokens[record.done // 1_000_000_000] += max(0, record.output_tokens - counted)

    def to_message(self, now: int, open_requests: int) -> dict[str, Any]:
        """Plain JSON. ``now`` in ns."""
        second = now // 1_000_000_000
        for counter in (self._requests, self._tokens):
            for old in [at for at in counter if at < second - 2 * _RATE_SECONDS]:
                del counter[old]
        return {
            "outcomes": dict(self._outcomes),
            "scheduled": self._scheduled,
            "good": self._good,
            "open": open_requests,
            "latest": {name: list(values) for name, values in self._latest.items()},
            "requests": _lately(self._requests, second),
            "tokens": _lately(self._tokens, second),
        }


def _lately(counter: Mapping[int, int], second: int) -> int:
    return sum(n for at, n in counter.items() if second - _RATE_SECONDS <= at < second)


def merge_live(messages: Iterable[Mapping[str, Any]], *, loaded_seconds: float, slo: Slo) -> dict[str, Any]:
    """The messages of all processes as fields of ``Progress``.

    ``loaded_seconds``: since the first request; rates over a shorter time than usual are over that.
    """
    outcomes: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    latest: dict[str, list[float]] = {}
    worst: dict[str, float | None] = dict.fromkeys(_WORST)
    for message in messages:
        worst |= {name: max(message.get(name, 0.0), worst[name] or 0.0) for name in _WORST if name in message}
        outcomes.update(message["outcomes"])
        totals.update({name: message[name] for name in ("scheduled", "good", "open", "requests", "tokens")})
        for name, values in message["latest"].items():
            latest.setdefault(name, []).extend(values)
    seconds = min(max(loaded_seconds, 1.0), _RATE_SECONDS)
    ok, unsent = outcomes.pop(Outcome.OK.value, 0), outcomes.get(Outcome.UNSENT.value, 0)
    promised = any(limit is not None for limit in (slo.ttft, slo.tpot, slo.e2e))
    return {
        "open_requests": totals["open"],
        "scheduled": totals["scheduled"],
        "completed": ok,
        "failed": sum(outcomes.values()) - unsent,
        "unsent": unsent,
        "outcomes": dict(outcomes),
        "requests_per_second": totals["requests"] / seconds,
        "output_tokens_per_second": totals["tokens"] / seconds,
        "ttft_p50_ms": percentile(latest.get("ttft"), 0.5),
        "ttft_p99_ms": percentile(latest.get("ttft"), 0.99),
        "tpot_p50_ms": percentile(latest.get("tpot"), 0.5),
        "tpot_p99_ms": percentile(latest.get("tpot"), 0.99),
        "itl_p99_ms": percentile(latest.get("itl"), 0.99),
        "e2e_p50_ms": percentile(latest.get("e2e"), 0.5),
        "e2e_p99_ms": percentile(latest.get("e2e"), 0.99),
        "dispatch_lag_p99_ms": percentile(latest.get("lag"), 0.99),
        **worst,
        "goodput_share": totals["good"] / totals["scheduled"] if promised and totals["scheduled"] else None,
    }


def percentile(values: list[float] | None, share: float) -> float | None:
    """Nearest rank; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
