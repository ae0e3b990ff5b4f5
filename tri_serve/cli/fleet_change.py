"""Changing a fleet that runs: ``up`` with another spec, ``scale``, ``restart``."""

from __future__ import annotations

from contextlib import suppress

import click

from tri_serve.cli import fleet_views as views
from tri_serve.cli.fleet_check import Times, check, process_began
from tri_serve.cli.fleet_progress import earlier_starts, keep_starts, show_replica, start_seconds
from tri_serve.cli.progress import SupervisorLines, goes_on, steps
from tri_serve.errors import EngineStartError, FleetError, GatewayStartError, TriServeError, UsageError
from tri_serve.fleet import detached
from tri_serve.fleet.desired import Desired
from tri_serve.fleet.release import ReleasePaths, exclusive
from tri_serve.fleet.state import FleetPhase, FleetState, ReplicaPhase
from tri_serve.spec.models import Spec

_CAN_CHANGE = (FleetPhase.RUNNING, FleetPhase.CHANGING)


def converge(paths: ReleasePaths, desired: Desired, times: Times) -> None:
    """Get the running fleet to what is desired, showing what differs; what was given up is started again."""
    state = detached.live_state(paths)
    if state.phase not in _CAN_CHANGE:
        click.echo(f"{paths.release} is {state.phase}; tri-serve status shows how far it is")
        return
    changes = detached.apply(paths, desired, preview=True, progress=click.echo)
    if not changes.changed:
        already = "runs again" if _revive(paths, state) else "runs this spec already"
        click.echo(f"{paths.release} {already}: {state.url}/v1 ({state.model})")
        return
    state = carry_out(paths, desired, changes, state, times)
    _revive(paths, state)
    click.echo(f"{paths.release} is changed: {state.url}/v1 ({state.model}), {times.total:.1f} s")


def carry_out(
    paths: ReleasePaths, desired: Desired, changes: detached.AppliedChanges, state: FleetState, times: Times
) -> FleetState:
    """Check and do what ``changes`` announces; the state afterwards. Raises what kept it from being done."""
    for line in changes.differences:
        click.echo(f"  {line}")
    for line in changes.actions:
        click.echo(f"→ {line}")
    living = sum(replica.pid is not None for replica in state.replicas)
    try:
        check(desired, paths, times, running=changes, engines=living)
    except TriServeError:
        click.echo(f"nothing is changed: {paths.release} goes on as it was", err=True)
        raise
    flag = views.release_flag(paths.release)
    try:
        with goes_on("the change", flag), steps() as view:
            lines = SupervisorLines(view, paths.release, _earlier(paths, state))
            detached.apply(paths, desired, preview=False, progress=lines)
            state = detached.live_state(paths)
            for replica in state.replicas:
                if replica.name in lines.parts:
                    show_replica(view, replica)
    except TriServeError:
        with suppress(FleetError):  # it does not answer any more, which the error says
            click.echo(views.after_failed_change(detached.live_state(paths)), err=True)
        raise
    keep_starts(paths, state)
    return state


def restart(paths: ReleasePaths, name: str | None) -> None:
    """Restart a replica, a gateway, or (None) every replica, one after the other."""
    state = detached.live_state(paths)
    with goes_on("the restart", views.release_flag(paths.release)), steps() as view:
        lines = SupervisorLines(view, paths.release, _earlier(paths, state))
        detached.restart(paths, name, lines)
        state = detached.live_state(paths)
        for replica in state.replicas:
            if replica.name in lines.parts:
                show_replica(view, replica)
    keep_starts(paths, state)


def scale(paths: ReleasePaths, replicas: int) -> None:
    """Another number of replicas; all else stays as it was last applied."""
    times = Times(begun=process_began())
    flag = views.release_flag(paths.release)
    with exclusive(paths, "up", f"a `tri-serve up` or `scale` of release {paths.release} is at work"):
        state = detached.live_state(paths)
        if state.phase not in _CAN_CHANGE:
            raise FleetError(f"release {paths.release} is {state.phase}; wait until it runs")
        running = detached.applied(paths)
        if state.autoscaling is not None:
            fewest, most = state.autoscaling
            raise UsageError(
                f"{paths.release} follows its load between {fewest} and {most} replicas, and would undo this",
                hint=f"change its bounds: tri-serve up{flag} --set fleet.replicas.max={max(replicas, fewest)}",
            )
        before = running.spec.fleet.initial_replicas
        if replicas == before:
            click.echo(f"{paths.release} has {views.plural(before, 'replica')} already")
            return
        desired = running.model_copy(update={"spec": _with_replicas(running.spec, replicas)})
        changes = detached.apply(paths, desired, preview=True, progress=click.echo)
        more = [line for line in changes.differences if not line.startswith("fleet.replicas:")]
        if more:
            raise FleetError(
                f"to scale would change more of {paths.release} than its replicas: {'; '.join(more)}",
                hint=f"tri-serve up{flag} --replicas {replicas} applies the spec as a whole",
            )
        try:
            state = carry_out(paths, desired, changes, state, times)
        except (EngineStartError, GatewayStartError) as error:
            show_last_words(error.log_tail)
            raise
    click.echo(
        f"{paths.release} has {views.plural(len(state.replicas), 'replica')} now, before {before}: "
        f"{times.total:.1f} s"
    )


def show_last_words(lines: tuple[str, ...]) -> None:
    """The end of a log."""
    for line in lines:
        click.echo(f"  | {line}", err=True)


def _with_replicas(spec: Spec, replicas: int) -> Spec:
    return spec.model_copy(update={"fleet": spec.fleet.model_copy(update={"replicas": replicas})})


def _earlier(paths: ReleasePaths, state: FleetState) -> dict[str, float]:
    """Seconds that the last start of each replica took: of the engine that runs now, else as files know it."""
    return earlier_starts(paths) | start_seconds(state)


def _revive(paths: ReleasePaths, state: FleetState) -> bool:
    """Start again what died so often that it was given up; False if nothing had been."""
    given_up = [replica.name for replica in state.replicas if replica.phase is ReplicaPhase.FAILED]
    for name in given_up:
        click.echo(f"→ start {name} again, which was given up")
        with goes_on("the start", views.release_flag(paths.release)), steps() as view:
            detached.restart(paths, name, SupervisorLines(view, paths.release, _earlier(paths, state)))
    return bool(given_up)
