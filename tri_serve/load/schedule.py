"""When each request of an open loop is due: exact, from the seed alone, the same however many processes share it.

Every process draws the whole sequence, in blocks, and keeps its own requests, so nothing has to be agreed on while
the load runs and a million arrivals take no memory. A number costs some tens of nanoseconds.
numpy keeps a generator's numbers from version to version but where its release notes say otherwise (NEP 19):
machines that share a load should have the same.

Times are seconds from the start of the run. Poisson arrivals whose rate changes come from inverting the rate's
integral at the points of a unit-rate process (Çinlar, Introduction to Stochastic Processes, 1975, section 4.7).
Gamma gaps are vLLM's (shape ``burstiness``, scale 1/(rate·burstiness): vllm/benchmarks/serve.py 0.32,
``get_request``). Unlike there, they are not stretched to end at N/rate: that would need the number of requests
beforehand, and takes from the load the very variance that it is there to show. The offered rate that came of it is
in the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from tri_serve.errors import UsageError
from tri_serve.load.records import Phase
from tri_serve.load.scenario.models import ClosedLoop, Constant, Gamma, Poisson, Ramp, Scenario, Spike, Steps

_BLOCK = 4_096
"""Draws at a time: 32 KiB."""
_STREAM = 0x61727269
"""Sets the arrivals' numbers apart from others of the same seed ("arri")."""
_MOST_PIECES = 1_000_000
"""Changes of the rate in one run; a step of a microsecond is a mistake, not a load."""

Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True, order=True)
class Arrival:
    """One request that is due."""

    index: int
    """Its number in the whole run."""
    at: float
    """Seconds from the start of the run, warm-up included."""
    phase: Phase


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of time over which the rate changes evenly, or not at all."""

    start: float
    seconds: float
    from_rate: float
    to_rate: float

    @property
    def requests(self) -> float:
        """Expected in it."""
        return self.seconds * (self.from_rate + self.to_rate) / 2

    def rate_at(self, at: float) -> float:
        """Requests a second at a moment of it."""
        return self.from_rate + (self.to_rate - self.from_rate) * (at - self.start) / self.seconds


class Schedule:
    """The arrivals of a scenario, shared by ``workers`` processes: worker i sends the indexes ≡ i (mod workers).

    Raises UsageError for a scenario whose loop is closed: there nothing is due (see ``closed_start``).
    """

    def __init__(self, scenario: Scenario, workers: int = 1) -> None:
        if isinstance(scenario.arrivals, ClosedLoop):
            raise UsageError(
                "arrivals.kind closed has no schedule: its users ask when they have their answers"
            )
        if workers < 1:
            raise UsageError("a schedule is shared by at least one worker")
        self._scenario = scenario
        self._arrivals = scenario.arrivals
        self._workers = workers
        if isinstance(self._arrivals, Steps):
            shortest = sum(step.seconds for step in self._arrivals.steps) / len(self._arrivals.steps)
            if self.longest / shortest > _MOST_PIECES:
                raise UsageError("arrivals.steps: the steps are too short for a run of this length")

    @property
    def window_start(self) -> float:
        """Seconds from the start of the run."""
        return self._scenario.warm_up

    @property
    def longest(self) -> float:
        """Seconds until the last request is due at the latest; sooner if ``requests`` ends the window."""
        return self._scenario.warm_up + self._scenario.window + self._scenario.cool_down

    def share(self, worker: int) -> Iterator[Arrival]:
        """What one worker sends, in order."""
        if not 0 <= worker < self._workers:
            raise UsageError(f"worker {worker} is none of the {self._workers}")
        return (Arrival(*due) for due in self._due() if due[0] % self._workers == worker)

    def _due(self) -> Iterator[tuple[int, float, Phase]]:
        """What all workers send together."""
        warm_up, most = self._scenario.warm_up, self._scenario.requests
        window_end, in_window = warm_up + self._scenario.window, 0
        end = self.longest
        for index, at in enumerate(self._times()):
            if at >= end:
                return
            if at < warm_up:
                yield index, at, Phase.WARM_UP
            elif at < window_end:
                yield index, at, Phase.WINDOW
                in_window += 1
                if in_window == most:
                    # What is due from now on belongs to the cool-down.
                    window_end = at
                    end = at + self._scenario.cool_down
            else:
                yield index, at, Phase.COOL_DOWN

    def window_end(self) -> float:
        """Seconds from the start of the run to the window's end. With ``requests`` the schedule is run through
        once; the window then ends with its last request."""
        planned = self._scenario.warm_up + self._scenario.window
        most = self._scenario.requests
        if most is None:
            return planned
        count = 0
        for _, at, phase in self._due():
            count += phase is Phase.WINDOW
            if count == most:
                return at
        return planned

    def rate_at(self, at: float) -> float:
        """Requests a second that are meant at a moment of the run; 0 before and after it."""
        if not 0 <= at < self.longest:
            return 0.0
        if isinstance(self._arrivals, Constant | Poisson | Gamma):
            return self._arrivals.rate
        return next(piece.rate_at(at) for piece in self._pieces() if at < piece.start + piece.seconds)

    def expected(self) -> float:
        """Requests that are expected in the whole run, if ``requests`` does not end it sooner."""
        if isinstance(self._arrivals, Constant | Poisson | Gamma):
            return self._arrivals.rate * self.longest
        return math.fsum(piece.requests for piece in self._pieces())

    # -- times without an end

    def _times(self) -> Iterator[float]:
        arrivals, random = (
            self._arrivals,
            np.random.Generator(np.random.PCG64([self._scenario.seed, _STREAM])),
        )
        match arrivals:
            case Constant():
                # Not summed up: k/rate has no error that grows.
                return (index / arrivals.rate for index in range(2**62))
            case Poisson():
                scale = 1 / arrivals.rate
                return _cumulative(lambda: random.standard_exponential(_BLOCK) * scale)
            case Gamma():
                shape, scale = arrivals.burstiness, 1 / (arrivals.rate * arrivals.burstiness)
                return _cumulative(lambda: random.gamma(shape, scale, _BLOCK))
            case _:
                unit = _cumulative(lambda: random.standard_exponential(_BLOCK))
                return _through(unit, self._pieces())

    def _pieces(self) -> Iterator[Piece]:
        """The rate over the run. The shape of ramp, steps and spike is the window's: the warm-up is at the rate
        that the window begins with, the cool-down at the one it ends with."""
        arrivals, begin = self._arrivals, self._scenario.warm_up
        window_end, end = begin + self._scenario.window, self.longest
        match arrivals:
            case Ramp():
                yield from _piece(0.0, begin, arrivals.from_rate)
                yield Piece(begin, self._scenario.window, arrivals.from_rate, arrivals.to_rate)
                yield from _piece(window_end, end, arrivals.to_rate)
            case Steps():
                yield from _piece(0.0, begin, arrivals.steps[0].rate)
                at = begin
                for step in cycle(arrivals.steps):
                    if at >= end:
                        break
                    yield from _piece(at, min(end, at + step.seconds), step.rate)
                    at += step.seconds
            case Spike():
                first = min(begin + arrivals.at, end)
                last = min(first + arrivals.seconds, end)
                yield from _piece(0.0, first, arrivals.rate)
                yield from _piece(first, last, arrivals.spike_rate)
                yield from _piece(last, end, arrivals.rate)


def closed_start(arrivals: ClosedLoop, user: int) -> float:
    """Seconds after the run's start at which one of its users (from 0) asks for the first time."""
    return arrivals.stagger * user / arrivals.users


def closed_index(arrivals: ClosedLoop, user: int, asked: int) -> int:
    """The number in the whole run of a user's request; ``asked`` is how many that user sent before."""
    return asked * arrivals.users + user


def _piece(start: float, end: float, rate: float) -> Iterator[Piece]:
    if end > start:
        yield Piece(start, end - start, rate, rate)


def _cumulative(draw: Callable[[], Times]) -> Iterator[float]:
    """The sums of the gaps so far, block after block."""
    last = 0.0
    while True:
        times = last + np.cumsum(draw())
        last = float(times[-1])
        yield from times.tolist()


def _through(unit: Iterator[float], pieces: Iterator[Piece]) -> Iterator[float]:
    """Where the rate's integral reaches each point of a unit-rate process; ends with the last piece."""
    passed = 0.0
    piece = next(pieces)
    for point in unit:
        while point - passed >= piece.requests:
            passed += piece.requests
            following = next(pieces, None)
            if following is None:
                return
            piece = following
        yield piece.start + _reached(piece, point - passed)


def _reached(piece: Piece, requests: float) -> float:
    """Seconds into a piece after which so many requests are expected: r·t + s·t²/2 = requests, solved for t in the
    form that does not cancel where the slope s is small or the rate r is 0."""
    slope = (piece.to_rate - piece.from_rate) / piece.seconds
    root = math.sqrt(max(0.0, piece.from_rate**2 + 2 * slope * requests))
    # Rounding may carry a point at the very end past it, and so out of order.
    return min(piece.seconds, 2 * requests / (piece.from_rate + root)) if requests else 0.0
