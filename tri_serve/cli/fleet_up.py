"""What ``tri-serve up`` does: check, install, start or change, and say how to use it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tri_serve.cli import fleet_views as views
from tri_serve.cli.output import print_notes
from tri_serve.cli.progress import Steps, goes_on, show_line, steps
from tri_serve.errors import EngineStartError, FleetError, GatewayStartError, TriServeError
from tri_serve.fleet import detached
from tri_serve.fleet.desired import Desired
from tri_serve.fleet.keys import environment_key_hashes
from tri_serve.fleet.local import LocalFleet, base_url
from tri_serve.fleet.preflight import Replaced, preflight
from tri_serve.fleet.release import ReleasePaths, exclusive, release_paths
from tri_serve.fleet.state import FleetPhase, FleetState, ReplicaPhase, write_private
from tri_serve.launch.install import install_environment
from tri_serve.places import data_dir

if TYPE_CHECKING:
    from tri_serve.spec.load import LoadedSpec

# Enough for a few sentences, and an end for a model that finds none.
FIRST_ANSWER_TOKENS = 256

_STARTED = (ReplicaPhase.STARTING, ReplicaPhase.LOADING, ReplicaPhase.WARMING)


@dataclass
class Times:
    """Seconds of one start, told apart by whose they are."""

    begun: float
    """Monotonic time at which this process began: its imports count as ours."""
    install: float = 0.0
    engine: float = 0.0

    @property
    def total(self) -> float:
        """So far."""
        return time.monotonic() - self.begun

    @property
    def own(self) -> float:
        """Beyond what the engine needed, and beyond making its environment, which happens once."""
        return max(0.0, self.total - self.install - self.engine)


def up(
    loaded: LoadedSpec, release: str, *, foreground: bool, timeout: float | None, question: str | None
) -> None:
    """Converge the release to the spec; a fleet that was started is asked ``question``."""
    times = Times(begun=_process_began())
    print_notes(loaded.notes)
    paths = release_paths(release)
    paths.create()
    desired = Desired(spec=loaded.spec, environment_hashes=environment_key_hashes(os.environ))
    with _signals_interrupt(), ExitStack() as at_work:
        at_work.enter_context(
            exclusive(paths, "up", f"another `tri-serve up` of release {release} is at work")
        )
        found = detached.find_fleet(paths)
        alive = found is not None and found.alive
        if found is not None and not alive:
            # What a killed supervisor left may still hold the port and the memory that are checked next.
            detached.stop(paths, timeout=None, progress=lambda line: click.echo(line, err=True))
        try:
            if alive:
                _converge(paths, desired, times)
                return
            if foreground:
                _check(desired, paths, times)
                # Once it runs, an `up` from elsewhere may change it.
                _run_here(paths, desired, times, running=at_work.close)
                return
            state = _start(paths, desired, times, timeout)
        except (EngineStartError, GatewayStartError) as error:
            _show_last_words(error.log_tail)
            raise
    _say_ready(state, times)
    if question:
        _first_answer(state, question)
    else:
        click.echo()
    views.print_usage(state)


def _converge(paths: ReleasePaths, desired: Desired, times: Times) -> None:
    state = detached.live_state(paths)
    if state.phase not in (FleetPhase.RUNNING, FleetPhase.CHANGING):
        click.echo(f"{paths.release} is {state.phase}; tri-serve status shows how far it is")
        return
    changes = detached.apply(paths, desired, preview=True, progress=click.echo)
    if not changes.changed:
        already = "runs again" if _revive(paths, state) else "runs this spec already"
        click.echo(f"{paths.release} {already}: {state.url}/v1 ({state.model})")
        return
    for line in changes.differences:
        click.echo(f"  {line}")
    for line in changes.actions:
        click.echo(f"→ {line}")
    living = sum(replica.pid is not None for replica in state.replicas)
    try:
        _check(desired, paths, times, running=changes, engines=living)
    except TriServeError:
        click.echo(f"nothing is changed: {paths.release} goes on as it was", err=True)
        raise
    try:
        with goes_on("the change", views.release_flag(paths.release)), steps() as view:
            detached.apply(paths, desired, preview=False, progress=lambda line: show_line(view, line))
    except TriServeError:
        with suppress(FleetError):  # it does not answer any more, which the error says
            click.echo(views.after_failed_change(detached.live_state(paths)), err=True)
        raise
    state = detached.live_state(paths)
    _revive(paths, state)
    click.echo(f"{paths.release} is changed: {state.url}/v1 ({state.model}), {times.total:.1f} s")


def _revive(paths: ReleasePaths, state: FleetState) -> bool:
    """Start again what died so often that it was given up; False if nothing had been."""
    given_up = [replica.name for replica in state.replicas if replica.phase is ReplicaPhase.FAILED]
    given_up += [gateway.name for gateway in state.gateways if gateway.phase == "failed"]
    for name in given_up:
        click.echo(f"→ start {name} again, which was given up")
        with goes_on("the start", views.release_flag(paths.release)), steps() as view:
            detached.restart(paths, name, partial(show_line, view))
    return bool(given_up)


def _check(
    desired: Desired,
    paths: ReleasePaths,
    times: Times,
    *,
    running: detached.AppliedChanges | None = None,
    engines: int = 0,
    view: Steps | None = None,
) -> None:
    """Everything that can be checked and prepared before anything starts.

    ``running``: what would change of a fleet that runs already, with so many living ``engines``.
    """
    if view is None:
        with steps() as view:
            _check(desired, paths, times, running=running, engines=engines, view=view)
            return
    spec = desired.spec
    view.show("checkpoint", spec.model.source)
    result = preflight(
        spec,
        environment_hashes=desired.environment_hashes,
        state=paths.root,
        # Its own port counts as taken while it runs.
        new_listener=running is None or running.running.gateway.port != spec.gateway.port,
        new_engines=max(0, spec.fleet.replicas - engines),
        replaced=Replaced(running.running, engines) if running and running.engines else None,
    )
    facts = result.checkpoint
    size = facts.total_bytes
    amount = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
    method = facts.quantization.method
    view.show(
        "checkpoint",
        f"{spec.model.source}: {facts.parameters / 1e6:,.1f}M parameters, {amount}, "
        + ("not quantised" if method == "none" else f"{method} {facts.quantization.bits}-bit"),
        "done",
    )
    engine = f"{spec.engine.kind} {spec.engine.version} on {result.device}"
    if result.install:
        before = time.monotonic()
        view.show("environment", f"{engine}: installing, once")
        install_environment(
            spec.engine.version,
            result.device,
            data_dir(),
            lambda line: view.show("environment", line),
            kind=spec.engine.kind,
        )
        times.install = time.monotonic() - before
    view.show("environment", engine, "done")


def _start(paths: ReleasePaths, desired: Desired, times: Times, timeout: float | None) -> FleetState:
    deadline = None if timeout is None else time.monotonic() + timeout
    with steps() as view:
        _check(desired, paths, times, view=view)
        view.show("gateway", base_url(desired.spec))
        earlier = _earlier_seconds(paths)
        supervisor = detached.start_supervisor(paths, desired)
        ready = False
        try:
            for state in detached.follow_start(paths, supervisor):
                if deadline is not None and time.monotonic() > deadline:
                    raise FleetError(
                        f"release {paths.release} was not ready within {timeout:g} s",
                        hint="give it more with --timeout; tri-serve logs shows how far it came",
                    )
                if state is not None:
                    _show_state(view, state, earlier)
            assert state is not None, "follow_start ends with a running fleet"
            ready = True
        finally:
            if not ready:
                view.show("stopping", "what was started")
                _abandon(paths, supervisor)
                view.show("stopping", "nothing is left running", "done")
    times.engine = max(sum(replica.phase_seconds.values()) for replica in state.replicas)
    write_private(paths.timings, json.dumps({"engine_seconds": round(times.engine, 1)}))
    return state


def _abandon(paths: ReleasePaths, supervisor: detached.Supervisor) -> None:
    try:
        detached.abandon(paths, supervisor)
    except KeyboardInterrupt:  # a second Ctrl-C: no more patience
        supervisor.kill()
        detached.abandon(paths, supervisor)
        raise


def _show_state(view: Steps, state: FleetState, earlier: float | None) -> None:
    for gateway in state.gateways:
        if gateway.phase == "running":
            view.show(gateway.name, gateway.url or state.url, "done")
    for replica in state.replicas:
        if replica.phase is ReplicaPhase.READY:
            view.show(replica.name, "; ".join(views.replica_notes(replica)[:1]) or "ready", "done")
        elif replica.phase in _STARTED:
            took = f" (took {earlier:.0f} s last time)" if earlier else ""
            view.show(replica.name, f"engine {replica.phase}{took}")
        else:
            view.show(
                replica.name,
                replica.error.removeprefix(f"{replica.name}: ") if replica.error else str(replica.phase),
                "failed",
            )


def _run_here(paths: ReleasePaths, desired: Desired, times: Times, *, running: Callable[[], None]) -> None:
    """The supervisor in this very process, until it is told to stop."""
    from tri_serve.fleet.supervisor import configure_logging, supervise

    configure_logging(paths.log("supervisor"))

    def on_ready(fleet: LocalFleet) -> None:
        click.echo(f"{paths.release} is ready: {base_url(fleet.spec)}/v1 after {times.total:.1f} s", err=True)
        running()

    asyncio.run(supervise(paths, desired, on_ready=on_ready))


def _first_answer(state: FleetState, question: str) -> None:
    """Ask the fleet something and show the answer as it comes: the proof that all of it works."""
    from tri_serve.cli.chat import KEY_VARIABLE, stream_answer
    from tri_serve.fleet.conversation import ChatServer

    key = os.environ.get(KEY_VARIABLE) or None
    if any(gateway.client_keys for gateway in state.gateways) and key is None:
        click.echo(f"(no client key in {KEY_VARIABLE}: the fleet was not asked anything)\n")
        return
    click.echo(f"\n> {question}")
    began = time.monotonic()
    first: float | None = None

    def noted() -> None:
        nonlocal first
        first = first or time.monotonic() - began

    body = {"model": state.model, "temperature": 0.0, "max_tokens": FIRST_ANSWER_TOKENS}
    stream_answer(ChatServer(state.url, key), body, [{"role": "user", "content": question}], on_piece=noted)
    if first is not None:
        click.echo(f"(first words after {first * 1000:.0f} ms, all after {time.monotonic() - began:.1f} s)")
    click.echo()


def _say_ready(state: FleetState, times: Times) -> None:
    install = f", {times.install:.1f} s installing the engine environment" if times.install else ""
    click.echo(
        f"{state.release} is ready after {times.total:.1f} s: {times.engine:.1f} s the engine{install}, "
        f"{times.own:.1f} s tri-serve"
    )


def _show_last_words(lines: tuple[str, ...]) -> None:
    for line in lines:
        click.echo(f"  | {line}", err=True)


def _earlier_seconds(paths: ReleasePaths) -> float | None:
    """How long the engine took last time; None if that is not known."""
    try:
        return float(json.loads(paths.timings.read_text())["engine_seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _process_began() -> float:
    """When this process was started, on the monotonic clock (which counts from boot, as /proc does)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    age = uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - max(0.0, age)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """A SIGTERM or a closed terminal ends the command as Ctrl-C does: with nothing left behind."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number in previous:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
