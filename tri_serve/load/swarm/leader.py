"""The leading process's side of a run: all processes prepare, a start is agreed on, what came of it is gathered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import gevent
from gevent.event import Event

from tri_serve.boot import boot_id
from tri_serve.errors import LoadBrokeOffError, TriServeError
from tri_serve.load.progress import Progress, Stage
from tri_serve.load.scenario.models import ClosedLoop
from tri_serve.load.swarm.live_figures import merge_live
from tri_serve.load.swarm.member import DONE, GO, LIVE, PREPARE, PREPARED, REFUSED, STOP
from tri_serve.load.swarm.order import RunOrder

PREPARE_SECONDS = 600.0
"""A million prompts are not made faster; a process that says nothing for so long is given up."""
_LEAD_SECONDS = 0.5
"""From the agreement to the start: a message to each process takes some milliseconds."""
_LATE_SECONDS = 15.0
"""After the last request's grace, the processes' reports must be here."""

_LOST_SECONDS = 8.0
"""Locust misses a process after some four seconds without a heartbeat, and a busy one comes back."""


class Links(Protocol):
    """How the leader reaches the processes that send requests."""

    def members(self) -> Sequence[str]:
        """Who is there now, in a fixed order."""
        ...

    def send(self, member: str, kind: str, data: dict[str, Any]) -> None: ...


class Watch(Protocol):
    """Is told of the moments of a run, and may look at the server meanwhile."""

    def before(self) -> None: ...
    def follow(self, start: int, begin: int, end: int) -> None: ...
    def after(self) -> None: ...


@dataclass
class Gathered:
    """What came of a run."""

    order: RunOrder
    start: int
    """ns on the leader's CLOCK_MONOTONIC."""
    wall_start: int
    ended: int
    workers: int
    shares: list[dict[str, Any]]
    """Reports of the processes, by their number."""
    lost: int
    """Processes that did not report."""
    workload_hash: str
    remarks: tuple[str, ...]
    tokenizer: str
    """What counted the tokens."""
    stopped_because: str


@dataclass
class _State:
    prepared: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[str, dict[str, Any]] = field(default_factory=dict)
    live: dict[str, dict[str, Any]] = field(default_factory=dict)
    done: dict[str, dict[str, Any]] = field(default_factory=dict)


class RefusedError(TriServeError):
    """A process could not prepare the run."""

    def __init__(self, message: str, *, hint: str | None, exit_code: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class Leader:
    """Leads one run. ``run`` does all of it and returns what was gathered; ``stop`` ends it early."""

    def __init__(
        self,
        order: RunOrder,
        links: Links,
        watch: Watch,
        *,
        tell: Callable[[Progress], None],
        users_are_there: Callable[[], bool] = lambda: True,
    ) -> None:
        self.order = order
        self.stopped_because = ""
        self.latest: Progress | None = None
        self._links = links
        self._watch = watch
        self._tell = tell
        self._users_are_there = users_are_there
        self._state = _State()
        self._members: tuple[str, ...] = ()
        self._missing_since: dict[str, float] = {}
        self._changed = Event()
        self._start = 0

    # -- from outside

    def take(self, member: str, kind: str, data: Mapping[str, Any]) -> None:
        """A message from a process."""
        if data.get("run") != self.order.run:
            return
        places = {
            PREPARED: self._state.prepared,
            REFUSED: self._state.refused,
            LIVE: self._state.live,
            DONE: self._state.done,
        }
        places[kind][member] = dict(data)
        self._changed.set()

    def stop(self, because: str) -> None:
        """End the run now; what was measured until then is gathered."""
        if not self.stopped_because:
            self.stopped_because = because
        for member in self._members:
            self._links.send(member, STOP, {"run": self.order.run})
        self._changed.set()

    # -- the run

    def run(self) -> Gathered | None:
        """All of it. None if it was stopped before its first request. Raises RefusedError if it cannot be done."""
        self._members = tuple(self._links.members())
        self.tell("preparing", "making prompts")
        for number, member in enumerate(self._members):
            order = {"order": self.order.model_dump_json(), "worker": number, "workers": len(self._members)}
            self._links.send(member, PREPARE, order)
        if not self._all_prepared() or not self._all_users():
            return None
        self._watch.before()
        self._begin()
        self._follow()
        return self._gather()

    def _all_prepared(self) -> bool:
        until = time.monotonic() + PREPARE_SECONDS
        state = self._state
        while len(state.prepared) < len(self._members):
            if self.stopped_because:
                return False
            self._raise_refusal()
            if time.monotonic() > until or any(self._is_lost(member) for member in self._members):
                raise RefusedError(
                    "a process of the client ended, or made no prompts in time",
                    hint=None,
                    exit_code=LoadBrokeOffError.exit_code,
                )
            self._pause(0.5)
        if len({told["hash"] for told in state.prepared.values()}) > 1:
            raise RefusedError(
                "the processes made different workloads",
                hint="the same version and the same data files are needed on every machine",
                exit_code=LoadBrokeOffError.exit_code,
            )
        return not self.stopped_because

    def _raise_refusal(self) -> None:
        for told in self._state.refused.values():
            raise RefusedError(told["error"], hint=told["hint"], exit_code=told["exit_code"])

    def _all_users(self) -> bool:
        # Locust starts its users meanwhile; those of a closed loop play the scenario's.
        if isinstance(self.order.scenario.arrivals, ClosedLoop):
            until = time.monotonic() + 30
            while not self._users_are_there() and time.monotonic() < until and not self.stopped_because:
                gevent.sleep(0.05)
        return not self.stopped_because

    def _begin(self) -> None:
        self._start = time.perf_counter_ns() + round(_LEAD_SECONDS * 1e9)
        self._wall_start = time.time_ns() + round(_LEAD_SECONDS * 1e9)
        data = {
            "run": self.order.run,
            "start": self._start,
            "wall_start": self._wall_start,
            "boot": boot_id(),
        }
        for member in self._members:
            self._links.send(member, GO, data)

    def _follow(self) -> None:
        scenario = self.order.scenario
        begin = self._start + round(scenario.warm_up * 1e9)
        end = begin + round(scenario.window * 1e9)
        watcher = gevent.spawn(self._watch.follow, self._start, begin, end)
        last = end + round((scenario.cool_down + scenario.grace + _LATE_SECONDS) * 1e9)
        stop_until = 0.0
        while len(self._state.done) < len(self._members):
            self.tell(self._stage())
            self._pause(1.0)
            self._raise_refusal()
            if self.stopped_because:
                stop_until = stop_until or time.monotonic() + _LATE_SECONDS
            late = time.perf_counter_ns() > last or (stop_until and time.monotonic() > stop_until)
            missing = [member for member in self._members if member not in self._state.done]
            if late or (missing and all(self._is_lost(member) for member in missing)):
                break
        watcher.kill()
        self.tell("reporting")
        self._watch.after()

    def _gather(self) -> Gathered:
        prepared = [self._state.prepared[member] for member in self._members]
        shares = [self._state.done[member] for member in self._members if member in self._state.done]
        return Gathered(
            order=self.order,
            start=self._start,
            wall_start=self._wall_start,
            ended=time.perf_counter_ns(),
            workers=len(self._members),
            shares=shares,
            lost=len(self._members) - len(shares),
            workload_hash=prepared[0]["hash"],
            remarks=tuple(prepared[0]["remarks"]),
            tokenizer=prepared[0]["tokenizer"],
            stopped_because=self.stopped_because,
        )

    def _is_lost(self, member: str) -> bool:
        if member in self._links.members():
            self._missing_since.pop(member, None)
            return False
        since = self._missing_since.setdefault(member, time.monotonic())
        return time.monotonic() - since > _LOST_SECONDS

    def _pause(self, seconds: float) -> None:
        self._changed.clear()
        self._changed.wait(seconds)

    # -- progress

    def _stage(self) -> Stage:
        scenario, at = self.order.scenario, (time.perf_counter_ns() - self._start) / 1e9
        if at < scenario.warm_up:
            return "warm-up"
        if at < scenario.warm_up + scenario.window:
            return "window"
        return "cool-down" if at < scenario.warm_up + scenario.window + scenario.cool_down else "ending"

    def tell(self, stage: Stage, note: str = "") -> None:
        """Write where the run is."""
        scenario = self.order.scenario
        elapsed = max(0.0, (time.perf_counter_ns() - self._start) / 1e9) if self._start else 0.0
        live = merge_live(self._state.live.values(), loaded_seconds=elapsed, slo=scenario.slo)
        self.latest = Progress(
            stage=stage,
            note=note,
            elapsed=elapsed,
            total=scenario.warm_up + scenario.window + scenario.cool_down,
            scenario=scenario.title,
            processes=len(self._members),
            target_rate=getattr(scenario.arrivals, "rate", None),
            **live,
        )
        self._tell(self.latest)
