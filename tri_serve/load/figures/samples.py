"""Samples of one figure: all of them while they are few, and always a histogram."""

from __future__ import annotations

import base64
import zlib
from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np

from tri_serve.load.figures.histogram import Histogram
from tri_serve.load.figures.model import Distribution

EXACT_SAMPLES = 200_000
"""Up to so many samples of a figure, over all processes, are kept (1.6 MB); percentiles are then exact."""
_NS_PER_MS = 1_000_000


class Samples:
    """Latencies in ns. Memory is that of ``EXACT_SAMPLES`` numbers and a histogram, however many are recorded."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self._kept: array[float] | None = array("d")

    def record(self, ns: float | None) -> None:
        """Count one; None is none."""
        if ns is None:
            return
        self.histogram.record(ns)
        if self._kept is not None:
            self._kept.append(ns)
            self._bound()

    def record_all(self, values: Iterable[float]) -> None:
        """Count several."""
        values = list(values)
        self.histogram.record_all(values)
        if self._kept is not None:
            self._kept.extend(values)
            self._bound()

    def _bound(self) -> None:
        if self._kept is not None and len(self._kept) > EXACT_SAMPLES:
            self._kept = None

    @property
    def count(self) -> int:
        """Samples so far."""
        return self.histogram.count

    @property
    def kept(self) -> list[float] | None:
        """Every sample in ns, or None where there were too many to keep."""
        return None if self._kept is None else list(self._kept)

    def distribution(self) -> Distribution:
        """In ms; zeros without samples, as vLLM prints them."""
        if self._kept is not None:
            return distribution_of(self._kept)
        histogram = self.histogram
        p50, p90, p95, p99 = histogram.percentiles((50, 90, 95, 99))
        figures = (histogram.mean, histogram.std, histogram.smallest, p50, p90, p95, p99, histogram.largest)
        return _distribution(histogram.count, figures, exact=False)

    def merge(self, other: Samples) -> None:
        """Add what ``other`` holds."""
        self.histogram.merge(other.histogram)
        if self._kept is not None and other._kept is not None:
            self._kept.extend(other._kept)
            self._bound()
        else:
            self._kept = None

    def to_message(self, *, exact: bool) -> dict[str, Any]:
        """As JSON; with ``exact`` the samples too, if there are few enough."""
        message = self.histogram.to_message()
        if exact and self._kept is not None:
            message["kept"] = base64.b85encode(zlib.compress(self._kept.tobytes(), 1)).decode("ascii")
        return message

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Samples:
        """What ``to_message`` gave."""
        found = cls()
        found.histogram = Histogram.from_message(message)
        if "kept" in message and found._kept is not None:
            found._kept.frombytes(zlib.decompress(base64.b85decode(message["kept"])))
        else:
            found._kept = None
        return found


def distribution_of(values: Iterable[float]) -> Distribution:
    """Of samples in ns, exactly as vLLM has it: numpy's mean, population deviation and linear percentiles."""
    samples = np.fromiter(values, dtype=np.float64)
    if not len(samples):
        return _distribution(0, (0.0,) * 8, exact=True)
    p50, p90, p95, p99 = np.percentile(samples, (50, 90, 95, 99))
    figures = (samples.mean(), samples.std(), samples.min(), p50, p90, p95, p99, samples.max())
    return _distribution(len(samples), tuple(float(value) for value in figures), exact=True)


def _distribution(count: int, figures: tuple[float, ...], *, exact: bool) -> Distribution:
    mean, std, least, p50, p90, p95, p99, most = (value / _NS_PER_MS for value in figures)
    return Distribution(
        count=count, mean=mean, std=std, min=least, p50=p50, p90=p90, p95=p95, p99=p99, max=most, exact=exact
    )
