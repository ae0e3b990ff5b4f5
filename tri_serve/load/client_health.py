"""Whether the client itself was the bottleneck: lag of its event loop, its CPU, quotas, clocks, garbage collection.

Each process of a run watches itself; what it found goes to the master as a small message.
"""

from __future__ import annotations

import gc
import math
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tri_serve.load.throttling import Throttled, read_throttled, throttling_files
from tri_serve.spec.fields import SpecModel

SAMPLE_SECONDS = 0.01
"""A hundred wake-ups a second cost well under 1% of a core, and a lag of 5 ms, the threshold, is not missed."""
_MOST_MISSED = 6_000
"""Samples that one stall is counted for: a minute. A machine that slept for a night is not counted through."""
_BUCKET = math.log(1.02)
_BUCKETS = 1 + math.ceil(math.log(1e9) / _BUCKET)
"""From 1 µs to 1,000 s in steps of 2%: what a lag is rounded up to."""


class ProcessHealth(SpecModel):
    """What one process of the client saw of itself in the counted window."""

    process: str
    """Its name in the run."""
    seconds: float
    """How long it was watched."""
    loop_lag_p50_ms: float
    """How late the event loop came to what was due, at 100 moments of each second: milliseconds."""
    loop_lag_p99_ms: float
    loop_lag_max_ms: float
    loop_lag_samples: int
    cpu_share: float
    """CPU time of the process over the time that passed: 1 is one whole core."""
    cpu_share_worst: float
    """The same, in its busiest second."""
    cpu_wait_share: float | None = None
    """Time that its main thread, in which the loop runs, was ready and had no CPU, of the time that passed:
    something else used the machine. Null where the kernel does not say."""
    throttled_seconds: float | None
    """Held back by a CPU quota of its control groups; null where that cannot be read."""
    throttled_periods: int | None
    clock_step_ms: float
    """The largest jump of the wall clock against the monotonic one, forwards or backwards."""
    gc_pauses: int
    """Runs of Python's garbage collector."""
    gc_seconds: float
    gc_longest_ms: float

    def to_message(self) -> dict[str, Any]:
        """Plain JSON, for ``from_message`` in another process."""
        return self.model_dump(mode="json")

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> ProcessHealth:
        """Raises pydantic's ValidationError at what no ``to_message`` made."""
        return cls.model_validate(message)


class ClientHealth(SpecModel):
    """All processes of the client; each figure of the whole is that of the worst one."""

    processes: tuple[ProcessHealth, ...]

    @property
    def loop_lag_p99_ms(self) -> float | None:
        return max((one.loop_lag_p99_ms for one in self.processes), default=None)

    @property
    def cpu_share(self) -> float | None:
        return max((one.cpu_share for one in self.processes), default=None)

    @property
    def cpu_wait_share(self) -> float | None:
        told = [one.cpu_wait_share for one in self.processes if one.cpu_wait_share is not None]
        return max(told, default=None)

    @property
    def throttled_seconds(self) -> float | None:
        """Most of any one; the processes may share one group, so they are not added. None: nobody could read it."""
        told = [one.throttled_seconds for one in self.processes if one.throttled_seconds is not None]
        return max(told, default=None)

    @property
    def clock_step_ms(self) -> float | None:
        return max((one.clock_step_ms for one in self.processes), default=None)

    @property
    def gc_longest_ms(self) -> float | None:
        return max((one.gc_longest_ms for one in self.processes), default=None)


def waited_for_cpu(file: Path = Path("/proc/self/schedstat")) -> int | None:
    """How long the main thread has been ready to run without a CPU, in ns; None where the kernel does not say.

    The second number of the file (kernel: Documentation/scheduler/sched-stats.rst).
    """
    try:
        return int(file.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _own_throttling() -> Callable[[], Throttled | None]:
    files = throttling_files()
    return lambda: read_throttled(files)


@dataclass(frozen=True, slots=True)
class Clocks:
    """What is read, all in ns but the throttling. Tests put their own here."""

    monotonic: Callable[[], int] = time.perf_counter_ns
    wall: Callable[[], int] = time.time_ns
    cpu: Callable[[], int] = time.process_time_ns
    waited: Callable[[], int | None] = waited_for_cpu
    throttled: Callable[[], Throttled | None] = field(default_factory=_own_throttling)


class Lags:
    """Counts of lags in buckets of 2%: the same memory for a second and for a week."""

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * _BUCKETS))
        self.samples = 0
        self.longest_ns = 0

    def add(self, lag_ns: int) -> None:
        lag_ns = max(0, lag_ns)
        index = math.ceil(math.log(lag_ns / 1_000) / _BUCKET) if lag_ns > 1_000 else 0
        self._counts[min(index, _BUCKETS - 1)] += 1
        self.samples += 1
        self.longest_ns = max(self.longest_ns, lag_ns)

    def percentile_ms(self, share: float) -> float:
        """The upper end of the bucket in which ``share`` (0 to 1) of the lags is reached; 0 without any."""
        wanted, seen = share * self.samples, 0
        for index, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return min(math.exp(index * _BUCKET) / 1_000, self.longest_ns / 1e6)
        return 0.0


class HealthWatch:
    """Watches the process that it runs in.

        with HealthWatch("worker-1") as watch:
            gevent.spawn(watch.run, gevent.sleep)   # for as long as the process loads
            ...
            watch.begin()                           # the counted window begins
            ...
            message = watch.report().to_message()   # it has ended

    ``run`` returns after ``stop`` or the end of the ``with``.
    """

    def __init__(self, process: str, clocks: Clocks | None = None) -> None:
        self.process = process
        self._clocks = clocks or Clocks()
        self._running = True
        self._gc_began = 0
        self._frozen: ProcessHealth | None = None
        self.begin()

    def __enter__(self) -> HealthWatch:
        gc.callbacks.append(self._on_gc)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        gc.callbacks.remove(self._on_gc)

    def begin(self) -> None:
        """Forget what was before: the counted window begins now."""
        clocks = self._clocks
        self._frozen = None
        self._lags = Lags()
        self._began = self._second_began = clocks.monotonic()
        self._cpu_began = self._second_cpu = clocks.cpu()
        self._worst_share = 0.0
        self._waited = clocks.waited()
        self._throttled = clocks.throttled()
        self._clock_gap = clocks.wall() - self._began
        self._clock_step = 0
        self._gc_pauses = self._gc_total = self._gc_longest = 0

    def end(self) -> None:
        """The counted window has ended: what comes now changes no later ``report``."""
        self._frozen = self.report()

    def stop(self) -> None:
        """Lets ``run`` return at its next sample."""
        self._running = False

    def run(self, sleep: Callable[[float], object]) -> None:
        """Sample until stopped. ``sleep`` is that of the loop to be watched, so ``gevent.sleep``.

        Due times stand on a fixed grid, and each one that a stall passed over is counted: what a thing waits that
        becomes due at any moment, and not only how many stalls there were.
        """
        monotonic, step = self._clocks.monotonic, round(SAMPLE_SECONDS * 1e9)
        due = monotonic() + step
        while self._running:
            sleep(max(0.0, (due - monotonic()) / 1e9))
            now = monotonic()
            if now < due:  # a loop that keeps its time in a cache can wake early
                continue
            due = self.sample(due, now, step)

    def sample(self, due: int, now: int, step: int) -> int:
        """Count each moment from ``due`` to ``now``; gives the next one due."""
        missed = (now - due) // step
        for late in range(min(missed, _MOST_MISSED) + 1):
            self._lags.add(now - due - late * step)
        if now - self._second_began >= 1_000_000_000:
            self._note_second(now)
        return due + (missed + 1) * step

    def _note_second(self, now: int) -> None:
        cpu = self._clocks.cpu()
        self._worst_share = max(self._worst_share, (cpu - self._second_cpu) / (now - self._second_began))
        self._second_began, self._second_cpu = now, cpu
        gap = self._clocks.wall() - self._clocks.monotonic()
        self._clock_step = max(self._clock_step, abs(gap - self._clock_gap))
        # Slow steering by NTP (at most 0.5 ms a second) is no step and must not add up to one.
        self._clock_gap = gap

    def report(self) -> ProcessHealth:
        """What was seen since ``begin``, up to ``end`` if that was called."""
        if self._frozen is not None:
            return self._frozen
        now = self._clocks.monotonic()
        passed = max(1, now - self._began)
        share = (self._clocks.cpu() - self._cpu_began) / passed
        waited = self._clocks.waited()
        before, after = self._throttled, self._clocks.throttled()
        return ProcessHealth(
            process=self.process,
            seconds=passed / 1e9,
            loop_lag_p50_ms=self._lags.percentile_ms(0.5),
            loop_lag_p99_ms=self._lags.percentile_ms(0.99),
            loop_lag_max_ms=self._lags.longest_ns / 1e6,
            loop_lag_samples=self._lags.samples,
            cpu_share=share,
            cpu_share_worst=max(share, self._worst_share),
            cpu_wait_share=(
                None if waited is None or self._waited is None else max(0, waited - self._waited) / passed
            ),
            throttled_seconds=max(0.0, after.seconds - before.seconds) if before and after else None,
            throttled_periods=max(0, after.periods - before.periods) if before and after else None,
            clock_step_ms=self._clock_step / 1e6,
            gc_pauses=self._gc_pauses,
            gc_seconds=self._gc_total / 1e9,
            gc_longest_ms=self._gc_longest / 1e6,
        )

    def _on_gc(self, phase: str, _: dict[str, int]) -> None:
        now = self._clocks.monotonic()
        if phase == "start":
            self._gc_began = now
        elif self._gc_began:
            pause = now - self._gc_began
            self._gc_pauses += 1
            self._gc_total += pause
            self._gc_longest = max(self._gc_longest, pause)
            self._gc_began = 0
