"""What one process does of a run: its part of the schedule, its requests, its figures."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from typing import Any

import gevent
from gevent.event import Event
from gevent.pool import Group

from tri_serve.load.checks import judge
from tri_serve.load.client_health import HealthWatch
from tri_serve.load.figures.collector import Collector, Window
from tri_serve.load.records import Outcome, Phase, Record
from tri_serve.load.scenario.models import ClosedLoop
from tri_serve.load.schedule import Schedule, closed_index, closed_start
from tri_serve.load.swarm.clocks import shift
from tri_serve.load.swarm.closed import BackOff, Numbers, part_of
from tri_serve.load.swarm.dispatcher import Arrival, Dispatcher
from tri_serve.load.swarm.in_flight import InFlight
from tri_serve.load.swarm.live_figures import LiveCounts
from tri_serve.load.swarm.order import RunOrder
from tri_serve.load.swarm.parts import Parts
from tri_serve.load.swarm.record_log import RecordLog
from tri_serve.load.swarm.scheduling import real_time
from tri_serve.load.wire.answer import Answer
from tri_serve.load.workload.items import Item


class Share:
    """One process's share of one run; ``worker`` of ``workers``.

    ``on_record`` is called with each request that has ended (Locust's event). ``go`` starts it at a time on
    CLOCK_MONOTONIC; it is over when ``finished`` is set, and ``report`` then says everything of it.
    """

    def __init__(
        self,
        order: RunOrder,
        parts: Parts,
        worker: int,
        workers: int,
        *,
        on_record: Callable[[Record], None] = lambda record: None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.order = order
        self.worker = worker
        self.workers = workers
        self.started = Event()
        self.finished = Event()
        self._parts = parts
        self._on_record = on_record
        self._clock = clock
        self._scenario = order.scenario
        self._running = Group()
        self._stopping = False
        self._tokens = 0
        self._cancelled = 0
        self._pauses_after_failures = 0
        self._live = LiveCounts(self._scenario.slo)
        self._main: gevent.Greenlet[[], None] | None = None
        self.users: Iterator[int] = iter(())
        """Numbers of the users of a closed loop that nobody plays yet."""
        if isinstance(self._scenario.arrivals, ClosedLoop):
            users, most = self._scenario.arrivals.users, self._scenario.requests
            self.users = iter(range(worker, users, workers))
            self._numbers = Numbers(None if most is None else part_of(most, users, worker, workers))

    def go(self, start: int, *, ahead: int = 0) -> None:
        """Begin at ``start``, in ns on this machine's CLOCK_MONOTONIC; the leader's is ``ahead`` by so much.

        What is reported is on the leader's.
        """
        self._start = start
        self._ahead = ahead
        self._begin = start + round(self._scenario.warm_up * 1e9)
        self._end = start + round(self._window_end() * 1e9)
        self._stop_at = self._end + round(self._scenario.cool_down * 1e9)
        self.in_flight = InFlight(self._begin, self._end)
        window = Window(self._begin + ahead, self._end + ahead, start + ahead)
        self.collector = Collector(window, self._scenario.slo)
        log = self.order.folder / f"records-{self.worker}.jsonl"
        self.log = RecordLog(log, self._log_header(), self.order.detail, gevent.get_hub().threadpool)
        self.log.start()
        self._health = HealthWatch(f"process-{self.worker}")
        self._real_time = False
        self._main = gevent.spawn(self._run)
        self.started.set()

    def _window_end(self) -> float:
        if isinstance(self._scenario.arrivals, ClosedLoop):
            return self._scenario.warm_up + self._scenario.window
        return Schedule(self._scenario).window_end()

    def _log_header(self) -> dict[str, Any]:
        return {
            "format": 1,
            "run": self.order.run,
            "process": self.worker,
            "clock": "CLOCK_MONOTONIC, ns",
            "start": self._start + self._ahead,
            "window": [self._begin + self._ahead, self._end + self._ahead],
            "wall_minus_clock": time.time_ns() - self._clock() - self._ahead,
        }

    # -- while it runs

    def _run(self) -> None:
        with self._health, real_time(wanted=self.order.real_time) as self._real_time:
            watcher = gevent.spawn(self._health.run, gevent.sleep)
            window = gevent.spawn(self._watch_window)
            if isinstance(self._scenario.arrivals, ClosedLoop):
                self._run_closed()
            else:
                self._run_open()
            self._running.join(timeout=0 if self._stopping else self._scenario.grace)
            self._running.kill(timeout=5)
            window.kill()
            self._health.end()
            self._health.stop()
            watcher.kill()
        self.log.close()
        self._parts.client.close()
        self.finished.set()

    def _watch_window(self) -> None:
        self._sleep_until(self._begin)
        self._health.begin()
        self._sleep_until(self._end)
        self._health.end()

    def _run_open(self) -> None:
        most = max(1, -(-self._scenario.most_open // self.workers))
        dispatcher = Dispatcher(
            self._send,
            self._drop,
            lambda: len(self._running),
            most,
            clock=self._clock,
            sleep=self._sleep_unless_stopping,
        )
        with contextlib.suppress(StoppedError):
            dispatcher.run(Schedule(self._scenario, self.workers).share(self.worker), self._start)
            self._sleep_until(self._stop_at)

    def _send(self, arrival: Arrival, due: int) -> None:
        self._running.spawn(self._ask_session, arrival.index, due, arrival.phase)

    def _drop(self, arrival: Arrival, due: int, why: str) -> None:
        # Of a conversation only the first turn was due; the others depend on answers.
        item = self._parts.workload.item(arrival.index)
        record = Record(arrival.index, item.id, item.group, arrival.phase, Outcome.UNSENT, why, scheduled=due)
        self._done(record)

    def _run_closed(self) -> None:
        with contextlib.suppress(StoppedError):
            self._sleep_until(self._start)
            for user in self.users:  # those that no Locust user has taken
                self._running.spawn(self._play, user)
            while self._clock() < self._stop_at:
                self._finish_if_all_ended()
                self._sleep_unless_stopping(0.05)

    def play(self, user: int) -> None:
        """Be one user of a closed loop until nothing new is asked any more."""
        self._running.spawn(self._play, user).join()

    def _play(self, user: int) -> None:
        arrivals = self._scenario.arrivals
        assert isinstance(arrivals, ClosedLoop)
        random = Random(f"{self._scenario.seed} {user}")  # noqa: S311 -- pauses, no secrets
        back_off = BackOff()
        free = self._start + round(closed_start(arrivals, user) * 1e9)
        for asked in count():
            if not self._rests_until(free):
                return
            free = self._clock()
            phase = self._phase_at(free)
            if phase is Phase.WINDOW and not self._numbers.take():
                return
            self._numbers.open += 1
            fine = self._ask_session(closed_index(arrivals, user, asked), free, phase)
            self._numbers.open -= 1
            self._finish_if_all_ended()
            pause = back_off.after(failed=not fine)
            self._pauses_after_failures += pause > 0
            think = random.expovariate(1 / arrivals.think) if arrivals.think else 0
            free = self._clock() + round(max(pause, think) * 1e9)

    def _finish_if_all_ended(self) -> None:
        """Of a number of requests that is reached, in this process: its window is over then."""
        now = self._clock()
        if self._numbers.all_out and not self._numbers.open and self._begin <= now < self._end:
            self._end = self._stop_at = now
            self.collector.finish(now + self._ahead)

    def _phase_at(self, now: int) -> Phase:
        if now < self._begin:
            return Phase.WARM_UP
        return Phase.WINDOW if now < self._end else Phase.COOL_DOWN

    def _ask_session(self, index: int, due: int, phase: Phase) -> bool:
        """One request, or the turns of one conversation. Whether all that was asked was answered."""
        session = self._parts.workload.session(index)
        if session is None:
            return self._ask(self._parts.workload.item(index), index, due, phase) is not None
        answers: list[str] = []
        ended = due
        for number in range(session.turns):
            item = session.turn(number, answers)
            if number:
                # From when the answer was there, so that a client that comes late to it is seen to be late.
                due = ended + round(item.think_seconds * 1e9)
                phase = self._phase_at(due)
                if not self._rests_until(due):
                    return True
            answered = self._ask(item, index, due, phase)
            if answered is None:
                return False
            answer, ended = answered
            answers.append(answer.text)
        return True

    def _ask(self, item: Item, index: int, due: int, phase: Phase) -> tuple[Answer, int] | None:
        """The answer, if it is whole and right, and when it was there."""
        record = Record(index, item.id, item.group, phase, scheduled=due, dispatched=self._clock())
        self.in_flight.enter(record.dispatched)
        try:
            answer = self._parts.client.ask(item, record)
            judge(record, item, answer)
            return (answer, record.done or self._clock()) if record.ok else None
        finally:
            self.in_flight.leave(self._clock())
            self._done(record)

    def _done(self, record: Record) -> None:
        self._tokens += record.output_tokens
        self._cancelled += record.outcome is Outcome.CANCELLED
        self._live.add(record)
        if self._ahead:
            shift(record, self._ahead)
        given_up = self._clock() + self._ahead if record.outcome is Outcome.CANCELLED else 0
        self.collector.add(record, given_up=given_up)
        self.log.add(record)
        self._on_record(record)

    # -- how it ends

    def stop(self) -> None:
        """End now: what is open is cancelled."""
        if self._stopping or self.finished.is_set():
            return
        self._stopping = True
        self.collector.stop(self._clock() + self._ahead)
        self._running.kill(block=False)

    def now(self) -> int:
        """On its clock, in ns."""
        return self._clock()

    def live_message(self) -> dict[str, Any]:
        """What the live views show, as plain JSON."""
        health = self._health.report()
        own = {"loop_lag_p99_ms": health.loop_lag_p99_ms, "cpu_share": health.cpu_share}
        return {**self._live.to_message(self._clock(), self.in_flight.open), **own}

    def report(self) -> dict[str, Any]:
        """Everything of it, as plain JSON. Once it is finished."""
        return {
            "worker": self.worker,
            "collector": self.collector.to_message(),
            "health": self._health.report().to_message(),
            "real_time": self._real_time,
            # Of a window that its number of requests ended, the other processes know when it was over.
            "in_flight_mean": self.in_flight.mean(self._clock()) if self.collector.finished is None else None,
            "in_flight_most": self.in_flight.most,
            "tokens": self._tokens,
            "cancelled": self._cancelled,
            "pauses_after_failures": self._pauses_after_failures,
            "records": self.log.path.name if self.order.detail != "none" else "",
            "records_lost": self.log.lost,
            "record_error": self.log.error,
        }

    def _rests_until(self, at: int) -> bool:
        """A user's pause. False: nothing new is asked any more, which may come to be while it rests."""
        while not self._stopping and (now := self._clock()) < self._stop_at:
            if now >= at:
                gevent.sleep(0)
                return not self._stopping
            gevent.sleep(min(at - now, self._stop_at - now, 250_000_000) / 1e9)
        return False

    def _sleep_until(self, at: int) -> None:
        while (left := at - self._clock()) > 0:
            self._sleep_unless_stopping(left / 1e9)

    def _sleep_unless_stopping(self, seconds: float) -> None:
        if self._stopping:
            raise StoppedError
        gevent.sleep(min(seconds, 0.25) if seconds > 0.3 else seconds)


class StoppedError(Exception):
    """The run was stopped before its end."""
