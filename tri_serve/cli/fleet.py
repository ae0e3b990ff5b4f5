"""``tri-serve up``, ``status``, ``logs``, ``scale``, ``restart`` and ``down``: the fleet of a release."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from tri_serve.cli.options import (
    MOST_REPLICAS,
    SpecSelection,
    fleet_options,
    gpu_option,
    output_option,
    release_option,
    spec_options,
)

if TYPE_CHECKING:
    from tri_serve.fleet.release import ReleasePaths

NOT_READY = 1
"""Exit code of `status` for a fleet that runs but cannot answer yet, or no more."""
_SOURCES = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")
"""Colours that tell logs apart. None is red: that would look like an error."""


@click.command()
@spec_options
@gpu_option
@fleet_options
@release_option
@click.option(
    "--foreground", is_flag=True, help="Stay in the foreground, as systemd wants it; Ctrl-C stops all."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="Give up, and stop what was started, if the fleet is not ready by then.",
)
@click.option(
    "--ask/--no-ask",
    default=True,
    show_default=True,
    help="Ask the started fleet one question and show its answer.",
)
def up(selection: SpecSelection, release: str, foreground: bool, timeout: float | None, ask: bool) -> None:
    """Start the fleet that the spec describes, or change it.

    Without a spec it serves the tiny checkpoint that comes with tri-serve. Running already with the same spec:
    nothing happens. With another: the difference is shown and applied, with as little disturbance as it takes.
    The fleet goes on when this command has ended; `tri-serve down` stops it.
    """
    from tri_serve.cli import fleet_up
    from tri_serve.cli.fleet_views import QUESTION

    loaded = selection.load()
    question = QUESTION if ask else None
    fleet_up.up(loaded, release, foreground=foreground, timeout=timeout, question=question)


@click.command()
@release_option
@output_option()
@click.option(
    "--watch",
    is_flag=False,
    flag_value=2.0,
    type=click.FloatRange(min=0.2),
    metavar="[SECONDS]",
    help="Show it again every 2 (or so many) seconds, in place, until Ctrl-C.",
)
@click.pass_context
def status(context: click.Context, release: str, output: str, watch: float | None) -> None:
    """Show gateway and replicas of a release.

    Without -r and with several releases: one line for each. Exit code 0: the gateway answers requests; 1: it
    runs but does not; 17: nothing runs.
    """
    from tri_serve.cli import fleet_views as views
    from tri_serve.cli.fleet_status import print_status
    from tri_serve.cli.output import print_data
    from tri_serve.errors import FleetError, UsageError
    from tri_serve.fleet.detached import current_fleet
    from tri_serve.fleet.release import known_releases, release_paths

    chosen = context.get_parameter_source("release") is not ParameterSource.DEFAULT
    names = known_releases()
    if watch is not None:
        if output != "table":
            raise UsageError(f"--watch is for people; repeat the command for -o {output}")
        if not chosen and len(names) > 1:
            raise UsageError(f"--watch shows one release: name it with -r; there are: {', '.join(names)}")
        _watch(release if chosen or not names else names[0], watch)
        return
    if not chosen and len(names) > 1:
        all_found = {name: fleet for name in names if (fleet := current_fleet(release_paths(name)))}
        if output == "table":
            views.print_releases(all_found)
        else:
            print_data([views.status_data(f.state, alive=f.alive) for f in all_found.values()], output)
        on_clusters = [
            name for name in names if name not in all_found and release_paths(name).cluster.exists()
        ]
        for name in on_clusters:
            click.echo(views.not_running(release_paths(name)), err=True)
        ready = not on_clusters and all(f.alive and f.state.ready for f in all_found.values())
        context.exit(0 if ready else NOT_READY)
    if not chosen and len(names) == 1:
        release = names[0]
    found = current_fleet(release_paths(release))
    if found is None:
        raise views.not_running(release_paths(release))
    if output == "table":
        print_status(found.state, alive=found.alive)
    else:
        print_data(views.status_data(found.state, alive=found.alive), output)
    if not found.alive:
        context.exit(FleetError.exit_code)
    context.exit(0 if found.state.ready else NOT_READY)


def _watch(release: str, seconds: float) -> None:
    """The status of a release again and again; Ctrl-C is how it is meant to end."""
    from tri_serve.cli.fleet_status import room, status_lines, watch
    from tri_serve.cli.fleet_views import not_running
    from tri_serve.errors import FleetError
    from tri_serve.fleet.detached import current_fleet
    from tri_serve.fleet.release import release_paths

    def looks() -> Iterator[list[str]]:
        while True:
            try:
                found = current_fleet(release_paths(release))
                if found is None:
                    raise not_running(release_paths(release))
            except FleetError as error:  # it may answer again
                yield [f"{release}: {error}"]
            else:
                yield status_lines(found.state, alive=found.alive, width=room())

    try:
        watch(looks(), seconds)
    except KeyboardInterrupt:
        return


@click.command()
@click.argument("name", required=False, metavar="[REPLICA|gateway|supervisor]")
@release_option
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on, until Ctrl-C.")
@click.option(
    "--tail",
    "count",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Lines of each log to begin with.",
)
def logs(name: str | None, release: str, follow: bool, count: int) -> None:
    """Print the logs of a release: all of them, or one.

    On a cluster, engines and gateways log on their nodes' disks; what cannot be read here is named with its place.
    """
    from tri_serve.errors import FleetError
    from tri_serve.fleet.detached import find_fleet
    from tri_serve.fleet.log_files import follow as follow_files
    from tri_serve.fleet.log_files import last_lines, log_files
    from tri_serve.fleet.release import release_paths

    paths = release_paths(release)
    try:
        found = find_fleet(paths)
    except FleetError:  # a damaged state says nothing of where parts log
        found = None
    files, elsewhere = log_files(paths, name, found.state if found else None)
    for each, log in elsewhere.items():
        click.echo(f"{each}: its log is {log}", err=True)
    if elsewhere and not files:
        return
    if not files:
        raise FleetError(
            f"release {release} has no logs: nothing of it was started here",
            hint="tri-serve status shows what runs",
        )
    width = max(map(len, files))
    colours = {each: _SOURCES[index % len(_SOURCES)] for index, each in enumerate(files)}

    def show(each: str, line: str) -> None:
        prefix = f"{click.style(f'{each:<{width}}', fg=colours[each])} | " if len(files) > 1 else ""
        click.echo(prefix + line)

    offsets: dict[str, int] = {}
    for each, path in files.items():
        lines, offsets[each] = last_lines(path, count)
        for line in lines:
            show(each, line)
    if follow:
        for each, line in follow_files(files, offsets, lambda: True):
            show(each, line)


@click.command()
@click.option(
    "--replicas",
    type=click.IntRange(1, MOST_REPLICAS),
    metavar="N",
    required=True,
    help="How many to run.",
)
@release_option
def scale(replicas: int, release: str) -> None:
    """Run another number of replicas, without losing a request.

    More: memory or GPUs are checked first, then the new engines start beside the others. Fewer: the last ones get
    no new requests, finish what they have, and stop. All else stays as it was last applied; the next
    `tri-serve up` brings back the number that its spec says.
    """
    from tri_serve.cli import fleet_change

    fleet_change.scale(_running(release), replicas)


@click.command()
@click.argument("name", required=False, metavar="[REPLICA|gateway]")
@release_option
def restart(name: str | None, release: str) -> None:
    """Restart one engine, the gateway, or every engine, one after the other.

    An engine finishes what it has running first. The gateway's port stays open meanwhile.
    """
    from tri_serve.cli import fleet_change

    fleet_change.restart(_running(release), name)
    click.echo(f"{name or 'every engine'} restarted")


@click.command()
@release_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Kill what has not ended by then. [default: the spec's drain and shutdown times]",
)
@click.option(
    "--forget",
    is_flag=True,
    help="Forget what cannot be stopped, on a Ray cluster or a machine that is no more.",
)
def down(release: str, timeout: float | None, forget: bool) -> None:
    """Stop everything that up started for the release, and only that.

    Running answers may finish first: the gateway takes no new ones, then the engines stop.
    """
    from contextlib import ExitStack

    from tri_serve.cli.fleet_views import release_flag
    from tri_serve.cli.progress import SupervisorLines, goes_on, steps
    from tri_serve.fleet import detached
    from tri_serve.fleet.release import release_paths

    paths = release_paths(release)
    with ExitStack() as shown:
        if _lives(paths):
            shown.enter_context(goes_on("the stop", release_flag(release)))
        view = shown.enter_context(steps())
        lines = SupervisorLines(view, release)
        stopped = detached.stop(paths, timeout=timeout, progress=lines, forget=forget)
    for place in stopped.forgotten:
        click.echo(f"{release} is forgotten; what may run at {place} was not stopped")
    if not stopped.forgotten:
        click.echo(f"{release} is stopped" if stopped.ran else f"{release} was not running")


def _running(release: str) -> ReleasePaths:
    """The paths of a release that runs. Raises FleetError if it does not."""
    from tri_serve.cli.fleet_views import not_running
    from tri_serve.fleet.detached import find_fleet, require_here
    from tri_serve.fleet.release import release_paths

    paths = release_paths(release)
    found = find_fleet(paths)
    if found is not None:
        require_here(paths, found.state)
    if found is None or not found.alive:
        raise not_running(paths, "" if found is None else ": its supervisor is gone")
    return paths


def _lives(paths: ReleasePaths) -> bool:
    """Whether its supervisor does. A damaged state says nothing."""
    from tri_serve.errors import FleetError
    from tri_serve.fleet.detached import find_fleet

    try:
        found = find_fleet(paths)
    except FleetError:
        return False
    return found is not None and found.alive
