"""What an engine says of its load on its own /metrics page: read from the page's bytes, and followed over time.

vLLM's page has 100 to 300 kB, nearly all of it histograms: the few wanted lines are looked for, the rest is
never parsed.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from tri_serve.observe import names

# The rate is taken over this many pages, one a second: long enough to be steady, short enough to be of now.
RATE_SAMPLES = 6
# Floats count whole numbers up to here; sums of what is below stay finite.
LARGEST = 2.0**53


@dataclass(frozen=True, slots=True)
class Readings:
    """One page: counts summed over the engine's data-parallel ranks, the share of the KV cache their mean."""

    running: int
    waiting: int
    kv_cache_usage: float
    """0 to 1."""
    tokens: float
    """Generated since the engine started."""
    finished: int
    """Requests that ended since the engine started, for whatever reason."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What is known of one engine's load."""

    running: int
    waiting: int
    kv_cache_usage: float
    tokens_per_second: float | None
    """Over the last pages; None until there are two."""
    requests_finished: int
    at: float
    """When the page was made, on CLOCK_MONOTONIC, which all processes of a machine share."""

    def as_json(self, now: float) -> dict[str, Any]:
        """For the status: its age in place of its time."""
        fields = asdict(self)
        fields["age_seconds"] = round(max(0.0, now - fields.pop("at")), 3)
        return fields


def series_values(page: bytes, series: str) -> list[float]:
    """The values of every sample of ``series``, one a label set; ``page`` begins with a line end.

    Raises ValueError if a sample has no number, or one that no engine counts to.
    """
    values: list[float] = []
    wanted = b"\n" + series.encode()
    position = page.find(wanted)
    while position >= 0:
        after = position + len(wanted)
        end = page.find(b"\n", after)
        line = page[after : end if end >= 0 else len(page)]
        if line[:1] in (b"{", b" "):  # else another name that begins alike
            # Behind the labels, the last brace: the value, and perhaps a time.
            words = line[line.rfind(b"}") + 1 :].split()
            value = float(words[0]) if words else math.nan
            if math.isnan(value) or abs(value) > LARGEST:
                raise ValueError(f"a sample of {series} has no number")
            values.append(value)
        position = page.find(wanted, end) if end >= 0 else -1
    return values


def read_page(page: bytes) -> Readings | None:
    """The wanted lines of a /metrics page; None if the engine does not tell its load, or not in numbers."""
    page = b"\n" + page
    try:
        running, waiting, kv_usage, tokens, finished = (
            series_values(page, metric.series) for metric in names.ENGINE
        )
    except ValueError:
        return None
    if not running or not waiting:
        return None
    return Readings(
        running=int(sum(running)),
        waiting=int(sum(waiting)),
        kv_cache_usage=sum(kv_usage) / len(kv_usage) if kv_usage else 0.0,
        tokens=sum(tokens),
        finished=int(sum(finished)),
    )


class LoadMeter:
    """Follows one engine's pages."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=RATE_SAMPLES)

    def observe(self, readings: Readings, at: float) -> EngineLoad:
        """Take one more page, made at ``at`` (seconds, monotonic)."""
        samples = self._samples
        if samples and readings.tokens < samples[-1][1]:  # the engine began anew
            samples.clear()
        samples.append((at, readings.tokens))
        (first_at, first), (last_at, last) = samples[0], samples[-1]
        seconds = last_at - first_at
        return EngineLoad(
            running=readings.running,
            waiting=readings.waiting,
            kv_cache_usage=readings.kv_cache_usage,
            tokens_per_second=(last - first) / seconds if seconds > 0 else None,
            requests_finished=readings.finished,
            at=at,
        )

    def forget(self) -> None:
        """The engine is gone: whatever comes next is another."""
        self._samples.clear()
