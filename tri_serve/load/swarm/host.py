"""What a Locust process holds of ours: as leader, as member, or, alone, as both."""

from __future__ import annotations

import logging
import os
import signal
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import gevent
from gevent import getcurrent
from gevent.event import Event
from locust.env import Environment
from locust.runners import STATE_RUNNING, MasterRunner, WorkerRunner

from tri_serve.errors import ClientSaturatedError, LoadBrokeOffError, SpecError, TriServeError, UsageError
from tri_serve.load.progress import Failed, Progress
from tri_serve.load.records import Outcome, Phase, Record
from tri_serve.load.scenario.models import ClosedLoop
from tri_serve.load.swarm.leader import Gathered, Leader
from tri_serve.load.swarm.member import DONE, GO, LIVE, PREPARE, PREPARED, REFUSED, STOP, Member
from tri_serve.load.swarm.options import form_options, key_goes_to, key_of
from tri_serve.load.swarm.order import RunOrder
from tri_serve.load.swarm.outcome import Finished, NothingMeasuredError, finish
from tri_serve.load.swarm.preparing import Prepared, prepare
from tri_serve.load.swarm.report import About
from tri_serve.load.swarm.server_watch import ServerWatch
from tri_serve.load.swarm.telling import Teller

logger = logging.getLogger("tri_serve.load")

_STOP_SECONDS = 30.0
"""How long an end that comes from outside waits for the processes' reports."""


class RequestFailedError(Exception):
    """A request that failed, as Locust counts it, which keeps every text that it has not seen to its end."""


class Host:
    """Of one Locust process. Made when Locust has made its runner."""

    def __init__(self, environment: Environment, teller: Teller) -> None:
        self.environment = environment
        self.teller = teller
        self._start = Namespace(**vars(environment.parsed_options))
        """The options as Locust was started with them: the web UI writes over the parsed ones."""
        self._start_url = environment.host
        self.member: Member | None = None
        self.leader: Leader | None = None
        self.latest: Progress | None = None
        """The last progress of a run that has ended."""
        self.finished: Finished | None = None
        self.failure: TriServeError | None = None
        self._ended = Event()
        self._ended.set()
        self._prepared: Prepared | None = None
        self._told = False
        """Whether Locust knows of the end of the last run."""
        self._interrupts = 0
        self._preparing: Any = None
        """The greenlet that looks at the server before the load."""
        runner = environment.runner
        assert runner is not None, "Locust fires init after it has made its runner"
        self._runner = runner
        if isinstance(runner, WorkerRunner):
            self.member = Member(runner.send_message, self._on_record, key=key_of(os.environ))
            for kind in (PREPARE, GO, STOP):
                runner.register_message(kind, lambda environment, msg: self._tell_member(msg.type, msg.data))
        elif isinstance(runner, MasterRunner):
            for kind in (PREPARED, REFUSED, LIVE, DONE):
                runner.register_message(kind, self._take)
        else:
            self.member = Member(self._take_own, self._on_record, key=key_of(os.environ))
        teller.on_gone = self._on_gone
        gevent.signal_handler(signal.SIGINT, self._on_interrupt)

    @property
    def options(self) -> Any:
        """Locust's parsed options, and ours among them."""
        return self.environment.parsed_options

    # -- Links

    def members(self) -> Sequence[str]:
        """Who sends requests: the workers in the order in which Locust gives them users, or this process."""
        if isinstance(self._runner, MasterRunner):
            return sorted(client.id for client in self._runner.clients.all if client.state != "missing")
        return ("local",)

    def send(self, member: str, kind: str, data: dict[str, Any]) -> None:
        """To one of them."""
        if isinstance(self._runner, MasterRunner):
            self._runner.send_message(kind, data, member)
        else:
            self._tell_member(kind, data)

    def _take(self, environment: Environment, msg: Any) -> None:
        if self.leader is not None:
            self.leader.take(msg.node_id, msg.type, msg.data)

    def _take_own(self, kind: str, data: dict[str, Any]) -> None:
        if self.leader is not None:
            self.leader.take("local", kind, data)

    def _tell_member(self, kind: str, data: dict[str, Any]) -> None:
        member = self.member
        assert member is not None, "only the leader of several processes has none"
        if kind == STOP:
            member.stop()
            return
        greenlet = gevent.spawn(member.prepare if kind == PREPARE else member.go, data)
        greenlet.link_exception(lambda dead: member.broke(repr(dead.exception)))

    # -- the run

    def prepare(self) -> None:
        """Read what is asked for, and look at the server. Raises TriServeError."""
        url = self.environment.host
        # Each run of the web UI has options of its own; headless they are those of the start.
        options = self._start if self._headless else form_options(self._start, self.options)
        send_key = self._headless or key_goes_to(url, self._start_url)
        self._preparing = getcurrent()
        try:
            self._prepared = prepare(
                options, url, key_of(os.environ), send_key=send_key, tell=self._tell_note
            )
        finally:
            self._preparing = None

    def _tell_note(self, words: str) -> None:
        self.teller.progress(Progress(stage="preparing", note=words))

    def tick(self) -> tuple[int, float] | None:
        """What Locust's shape asks: how many users there are to be; None when the run is over."""
        if self._ended.is_set():
            if self.finished is not None or self.failure is not None:
                if self._told:
                    # In the web UI: the next start, with what its form says now.
                    self._prepared = self.finished = self.failure = self.latest = None
                    self._told = False
                    return self.tick()
                self._told = True
                return None
            if self._prepared is None:
                try:
                    self.prepare()
                except TriServeError as error:
                    self.fail(error)
                    return None
        assert self._prepared is not None
        users = self._users(self._prepared.order)
        return users, float(users)

    def _users(self, order: RunOrder) -> int:
        arrivals = order.scenario.arrivals
        return arrivals.users if isinstance(arrivals, ClosedLoop) else len(self.members())

    @property
    def _headless(self) -> bool:
        return bool(self._start.headless)

    def start(self) -> None:
        """Locust's test begins."""
        if isinstance(self._runner, WorkerRunner) or not self._ended.is_set():
            return
        self._ended.clear()
        gevent.spawn(self._lead)

    def _lead(self) -> None:
        try:
            if self._prepared is None:
                self.prepare()
            assert self._prepared is not None
            prepared = self._prepared
            watch = ServerWatch(prepared.sources)
            self.leader = Leader(
                prepared.order,
                self,
                watch,
                tell=self.teller.progress,
                users_are_there=lambda: self._runner.state == STATE_RUNNING,
            )
            gathered = self.leader.run()
            self.finished = self._report(gathered, prepared.about, watch)
        except TriServeError as error:
            self.fail(error)
        finally:
            if self.finished is None and self.failure is None:
                self.fail(LoadBrokeOffError("the run broke off", hint="its traceback is in the log"))
            if self.leader is not None:
                self.latest = self.leader.latest
            self.leader = None
            self._ended.set()

    def _report(self, gathered: Gathered | None, about: About, watch: ServerWatch) -> Finished:
        if gathered is not None and gathered.lost and not gathered.shares and not self._interrupts:
            # Locust, too, stops a run whose processes are all gone.
            raise ClientSaturatedError(
                f"all {gathered.workers} processes of the client were lost",
                hint="the system's log says whether it ended them for want of memory",
            )
        if gathered is None or not gathered.shares:
            raise NothingMeasuredError("the run ended before anything was measured")
        finished = finish(
            gathered,
            about,
            watch.history,
            vllm_json=self._start.save_vllm_json or self._start.save_detailed,
            detailed=self._start.save_detailed,
        )
        self.teller.ended(finished)
        return finished

    def fail(self, error: TriServeError) -> None:
        """The run cannot be done, or left nothing."""
        self.failure = error
        self.teller.failed(Failed(error=str(error), hint=error.hint, exit_code=_exit_code(error)))

    # -- how it ends

    def stop(self, because: str) -> None:
        """The test is stopped from outside, or Locust quits: gather what there is."""
        if isinstance(self._runner, WorkerRunner):
            return
        if self.leader is not None:
            self.leader.stop(because)
            if self._interrupts < 2:
                self._ended.wait(_STOP_SECONDS)
        self._told = True

    @property
    def exit_code(self) -> int | None:
        """What the process ends with; None where nothing was run."""
        if self.failure is not None:
            return _exit_code(self.failure)
        if self.finished is None:
            return 0 if isinstance(self._runner, WorkerRunner) else None
        return self.finished.exit_code

    def _on_interrupt(self) -> None:
        self._interrupts += 1
        if isinstance(self._runner, WorkerRunner):
            if self._interrupts == 1 and self.member is not None and self.member.busy:
                # Ctrl-C reaches every process of a terminal; the leader says when to stop, if it still lives.
                gevent.spawn_later(_STOP_SECONDS, self._quit)
                return
        elif self._preparing is not None and self._headless:
            gevent.get_hub().loop.run_callback(self._preparing.throw, KeyboardInterrupt)
            return
        elif self._interrupts == 1 and self.leader is not None and self._headless:
            logger.info("Ctrl-C: ending the run; once more to end at once")
            self.leader.stop("Ctrl-C")
            return
        raise KeyboardInterrupt

    def _on_gone(self) -> None:
        if self.leader is not None:
            self.leader.stop("whoever started the run is gone")

    def _quit(self) -> None:
        raise KeyboardInterrupt

    # -- requests

    def _on_record(self, record: Record) -> None:
        """Locust's event, one for each request that was validated."""
        if record.outcome is Outcome.CANCELLED:
            return
        warm = "" if record.phase is Phase.WINDOW else f" ({record.phase.value.replace('_', ' ')})"
        end = record.last or record.done
        self.environment.events.request.fire(  # type: ignore[no-untyped-call]
            request_type="POST",
            name=f"{record.group or 'requests'}{warm}",
            response_time=(end - record.sent) / 1e6 if record.sent and end else None,
            response_length=record.bytes_received,
            exception=None if record.ok else RequestFailedError(record.outcome.value),
            context={},
        )


def _exit_code(error: TriServeError) -> int:
    # What a scenario file says wrong is what the command line asked for.
    return UsageError.exit_code if isinstance(error, SpecError) else error.exit_code
