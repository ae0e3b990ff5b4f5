"""``tri-serve status`` for people: a fleet on a screen of 80 columns."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from tri_serve.cli.columns import Column, age, columns, compact, rate
from tri_serve.cli.fleet_views import (
    autoscaling_words,
    duration,
    gateway_notes,
    plural,
    ray_trouble,
    release_flag,
    replica_facts,
    replica_trouble,
    word,
)

if TYPE_CHECKING:
    from tri_serve.fleet.state import FleetState, GatewayState, RayState, ReplicaState, WorkerState

_REPLICA_COLUMNS = (
    Column("replica"),
    Column("state"),
    Column("device"),
    Column("pid", number=True),
    Column("KV", number=True),
    Column("in flight", number=True),
    Column("tok/s", number=True),
    Column("restarts", number=True),
    Column("since", number=True),
)
_GATEWAY_COLUMNS = (
    Column("gateway"),
    Column("state"),
    Column("pid", number=True),
    Column("connections", number=True),
    Column("in flight", number=True),
    Column("restarts", number=True),
    Column("since", number=True),
)
_SILENT_SECONDS = 5.0
"""A worker says something every second, unless it is stuck or short of a processor."""
_STATE = 1
"""Index of the state in both."""
_HEAD_INDENT = 14
_LONGEST_GATEWAY_CELL = 22
"""A longer name (``gateway@NODE``) stands over its rows, so that the table fits into 80 columns."""


def print_status(state: FleetState, *, alive: bool) -> None:
    """One release in full."""
    for line in status_lines(state, alive=alive, width=room()):
        click.echo(line)


def watch(look: Iterator[list[str]], seconds: float) -> None:
    """Show what ``look`` gives, again every so many seconds, in place, until Ctrl-C."""
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False, vertical_overflow="crop") as live:
        for lines in look:
            live.update(Text.from_ansi("\n".join(lines)), refresh=True)
            time.sleep(seconds)


def room() -> int | None:
    """Columns of the terminal; None in a pipe, where a line stays a line."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def status_lines(
    state: FleetState, *, alive: bool, width: int | None = 80, now: float | None = None
) -> list[str]:
    """One release in full. Prose is wrapped to ``width``; tables keep to 80 columns where they can."""
    now = time.time() if now is None else now
    condition = word(state, alive=alive)
    lines = [f"{state.release}: {click.style(condition, bold=True)}"]
    if condition == "failed" or not alive:
        reasons = _why_it_is_gone(state, failed=condition == "failed")
        return lines + _wrapped((f"  {line}" for line in reasons), width, indent=4)
    lines += _wrapped(_head(state, now), width, indent=_HEAD_INDENT)
    if state.replicas:
        lines += ["", *_replica_table(state.replicas, now)]
    if state.gateways:
        lines += ["", *_gateway_table(state.gateways, now)]
    notes = _wrapped(_notes(state, now), width)
    return [*lines, "", *notes] if notes else lines


def _why_it_is_gone(state: FleetState, *, failed: bool) -> list[str]:
    flag = release_flag(state.release)
    if failed:
        message = state.error.message if state.error else "it could not be started"
        return [
            f"it could not be started: {message}",
            f"tri-serve logs{flag} says more; tri-serve up{flag} tries again",
        ]
    if state.elsewhere:
        return [
            f"its supervisor runs on {state.elsewhere}, and can be asked there alone",
            f"if {state.elsewhere} is no more: tri-serve down{flag} --forget",
        ]
    gone = f"its supervisor (pid {state.supervisor.pid}) is gone without a trace: killed, or a reboot"
    if state.target == "ray":
        at = f" at {state.ray.address}" if state.ray and state.ray.address else ""
        return [
            gone,
            f"what it ran on the cluster{at} may still serve: tri-serve up{flag} takes it over, "
            f"tri-serve down{flag} stops it",
        ]
    return [
        gone,
        f"tri-serve down{flag} tidies up; tri-serve up{flag} does that, too, and starts it again",
    ]


def _head(state: FleetState, now: float) -> list[str]:
    rows = [
        ("url", f"{state.url}/v1"),
        ("model", f"{state.model} ({state.source}) on {state.engine}"),
        ("supervisor", f"pid {state.supervisor.pid}, up {duration(now - state.supervisor.started)}"),
    ]
    if state.ray is not None:
        rows.append(("ray", ray_line(state.ray)))
    scaling = autoscaling_words(state)
    if scaling:
        rows.append(("autoscaling", scaling))
    return [f"  {name:<{_HEAD_INDENT - 2}}{text}" for name, text in rows]


def ray_line(ray: RayState) -> str:
    """Which Ray, how it is, and what of it runs here."""
    parts: list[str] = [] if ray.phase == "running" else [ray.phase]
    where = f" at {ray.address}" if ray.address else ""
    parts.append(f"{'private' if ray.private else 'your cluster'}{where}")
    if ray.nodes and not (ray.private and ray.nodes == 1):
        parts.append(f"{plural(ray.nodes, 'node')}")
    parts += [f"{name} {pid}" for name, pid in ray.processes.items()]
    if ray.restarts:
        parts.append(f"{plural(ray.restarts, 'restart')}")
    return ", ".join(parts)


def _replica_table(replicas: Sequence[ReplicaState], now: float) -> list[str]:
    def row(replica: ReplicaState, indent: str) -> list[str]:
        return [
            indent + replica.name,
            replica.phase.value,
            replica.device or "-",
            _cell(replica.pid),
            compact(replica.kv_cache_tokens),
            _load(replica),
            rate(replica.tokens_per_second),
            str(replica.restarts),
            age(now - replica.since),
        ]

    nodes = list(dict.fromkeys(replica.node for replica in replicas))
    rows: list[list[str] | str] = []
    for node in nodes:
        if len(nodes) > 1:
            rows.append(node or "(no node yet)")
        indent = "  " if len(nodes) > 1 else ""
        rows += [row(replica, indent) for replica in replicas if replica.node == node]
    return columns(_REPLICA_COLUMNS, rows, width=80, colour=_STATE)


def _load(replica: ReplicaState) -> str:
    """Requests on the way there, and how many of them wait in the engine."""
    known = replica.in_flight if replica.in_flight is not None else replica.running
    waiting = f" ({replica.waiting} wait)" if replica.waiting else ""
    return _cell(known) + waiting


def _gateway_table(gateways: Sequence[GatewayState], now: float) -> list[str]:
    rows: list[list[str] | str] = []
    long_names = any(len(gateway.name) > _LONGEST_GATEWAY_CELL for gateway in gateways)
    for gateway in gateways:
        if long_names:
            rows.append(gateway.name)
        rows.append(
            [
                "  process" if long_names else gateway.name,
                gateway.phase,
                _cell(gateway.pid),
                str(sum(worker.connections for worker in gateway.workers)),
                _cell(gateway.in_flight),
                str(gateway.restarts),
                age(now - gateway.since),
            ]
        )
        rows += [
            [
                f"  worker {number}",
                _worker_state(worker),
                _cell(worker.pid),
                str(worker.connections),
                str(worker.in_flight),
                "",
                "",
            ]
            for number, worker in enumerate(gateway.workers, 1)
        ]
    return columns(_GATEWAY_COLUMNS, rows, width=80, colour=_STATE)


def _worker_state(worker: WorkerState) -> str:
    if worker.silent_seconds >= _SILENT_SECONDS:
        return "silent"  # --json says for how long
    return "up" if worker.up else "down"


def _cell(number: int | None) -> str:
    return "-" if number is None else str(number)


def _notes(state: FleetState, now: float) -> list[str]:
    """What does not fit into a table; the same word about several parts is said once."""
    flag = release_flag(state.release)
    about: dict[str, list[str]] = {}
    for replica in state.replicas:
        for line in (*replica_facts(replica, with_cache=False), *replica_trouble(replica, flag, now)):
            about.setdefault(line, []).append(replica.name)
    for gateway in state.gateways:
        for line in gateway_notes(gateway):
            about.setdefault(line, []).append(gateway.name)
    lines = [f"ray: {line}" for line in ray_trouble(state.ray, flag)] if state.ray else []
    return lines + [f"{', '.join(names)}: {line}" for line, names in about.items()]


def _wrapped(lines: Iterable[str], width: int | None, *, indent: int = 2) -> list[str]:
    """Prose in so many columns; what a line goes on with is indented."""
    if width is None:
        return list(lines)
    wrapped: list[str] = []
    for line in lines:
        wrapped += textwrap.wrap(line, width, subsequent_indent=" " * indent, break_on_hyphens=False)
    return wrapped
