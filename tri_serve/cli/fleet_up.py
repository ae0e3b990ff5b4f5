"""What ``tri-serve up`` does: check, install, start or change, and say how to use it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from tri_serve.cli import fleet_views as views
from tri_serve.cli.fleet_change import converge, show_last_words
from tri_serve.cli.fleet_check import Times, check, process_began
from tri_serve.cli.fleet_progress import earlier_starts, keep_starts, show_fleet, show_replica
from tri_serve.cli.notices import print_notices
from tri_serve.cli.progress import Steps, steps
from tri_serve.errors import EngineStartError, FleetError, GatewayStartError
from tri_serve.fleet import detached
from tri_serve.fleet.desired import Desired
from tri_serve.fleet.fleet import Fleet, base_url
from tri_serve.fleet.keys import environment_key_hashes
from tri_serve.fleet.release import ReleasePaths, exclusive, release_paths
from tri_serve.fleet.state import FleetState, read_state

if TYPE_CHECKING:
    from tri_serve.spec.load import LoadedSpec

# Enough for a few sentences, and an end for a model that finds none.
FIRST_ANSWER_TOKENS = 256


def up(
    loaded: LoadedSpec, release: str, *, foreground: bool, timeout: float | None, question: str | None
) -> None:
    """Converge the release to the spec; a fleet that was started is asked ``question``."""
    times = Times(begun=process_began())
    print_notices(loaded.notes)
    paths = release_paths(release)
    paths.create()
    desired = Desired(spec=loaded.spec, environment_hashes=environment_key_hashes(os.environ))
    with _signals_interrupt(), ExitStack() as at_work:
        at_work.enter_context(
            exclusive(paths, "up", f"another `tri-serve up` of release {release} is at work")
        )
        found = detached.find_fleet(paths)
        alive = found is not None and found.alive
        if found is not None and alive and views.ray_is_given_up(found.state):
            click.echo("→ Ray died too often, and was given up: all of it is started again", err=True)
            alive = False
        if found is not None and not alive:
            # What a killed supervisor left may still hold the port and the memory that are checked next; what it
            # left on a cluster serves on, and is taken over.
            detached.stop_here(paths, timeout=None, progress=lambda line: click.echo(line, err=True))
        try:
            if alive:
                converge(paths, desired, times)
                return
            if foreground:
                check(desired, paths, times)
                # Once it runs, an `up` from elsewhere may change it.
                _run_here(paths, desired, times, running=at_work.close)
                return
            state = _start(paths, desired, times, timeout)
        except (EngineStartError, GatewayStartError) as error:
            show_last_words(error.log_tail)
            raise
    _say_ready(state, times)
    if question:
        _first_answer(state, question)
    else:
        click.echo()
    views.print_usage(state)


def _start(paths: ReleasePaths, desired: Desired, times: Times, timeout: float | None) -> FleetState:
    deadline = None if timeout is None else time.monotonic() + timeout
    with steps() as view:
        check(desired, paths, times, view=view)
        if desired.spec.fleet.target == "local":
            view.show("gateway", base_url(desired.spec))
        earlier = earlier_starts(paths)
        serves = paths.cluster.exists()
        supervisor = detached.start_supervisor(paths, desired)
        started = time.monotonic()
        ready = False
        try:
            for state in detached.follow_start(paths, supervisor):
                if deadline is not None and time.monotonic() > deadline:
                    raise FleetError(
                        f"release {paths.release} was not ready within {timeout:g} s",
                        hint="give it more with --timeout; tri-serve logs shows how far it came",
                    )
                if state is not None:
                    show_fleet(view, state, earlier)
                    if state.ray is not None and not times.ray and any(r.pid for r in state.replicas):
                        times.ray = time.monotonic() - started
            assert state is not None, "follow_start ends with a running fleet"
            ready = True
        finally:
            if not ready:
                _show_blame(view, paths)
                view.show("stopping", "the supervisor" if serves else "what was started")
                left = _abandon(paths, supervisor, serves=serves)
                view.show("stopping", left or "nothing is left running", "left" if left else "done")
    times.engine = max((sum(replica.phase_seconds.values()) for replica in state.replicas), default=0.0)
    keep_starts(paths, state)
    return state


def _show_blame(view: Steps, paths: ReleasePaths) -> None:
    """Which replicas it was that did not start, as the supervisor wrote before it ended."""
    try:
        state = read_state(paths.state)
    except FleetError:
        return
    for replica in state.replicas if state else ():
        if replica.error:
            show_replica(view, replica)


def _abandon(paths: ReleasePaths, supervisor: detached.Supervisor, *, serves: bool) -> str | None:
    """End what was started; what is left, if anything. ``serves``: what was to be taken over does, and goes on."""
    try:
        if serves:
            detached.leave_cluster_alone(paths, supervisor)
        else:
            left = detached.abandon(paths, supervisor)
    except KeyboardInterrupt:  # a second Ctrl-C: no more patience
        supervisor.kill()
        _abandon(paths, supervisor, serves=serves)
        raise
    flag = views.release_flag(paths.release)
    if serves:
        return f"what runs on the cluster goes on without it; tri-serve down{flag} stops it"
    return f"{left.message}; tri-serve down{flag} tries again" if left else None


def _run_here(paths: ReleasePaths, desired: Desired, times: Times, *, running: Callable[[], None]) -> None:
    """The supervisor in this very process, until it is told to stop."""
    from tri_serve.fleet.supervisor import configure_logging, supervise

    configure_logging(paths.log("supervisor"))

    def on_ready(fleet: Fleet) -> None:
        click.echo(f"{paths.release} is ready: {base_url(fleet.spec)}/v1 after {times.total:.1f} s", err=True)
        running()

    asyncio.run(supervise(paths, desired, on_ready=on_ready))
    if desired.spec.fleet.target == "ray" and paths.cluster.exists():
        raise FleetError(
            f"what {paths.release} runs on its cluster was not stopped: {paths.log('supervisor')} says why",
            hint=f"tri-serve down{views.release_flag(paths.release)} tries it again",
        )


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
    ray = f", {times.ray:.1f} s Ray" if times.ray else ""
    pull = f", {times.pull:.1f} s fetching the checkpoint" if times.pull else ""
    install = f", {times.install:.1f} s installing the engine environment" if times.install else ""
    click.echo(
        f"{state.release} is ready after {times.total:.1f} s: {times.engine:.1f} s the engine{ray}{pull}{install}, "
        f"{times.own:.1f} s tri-serve"
    )


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
