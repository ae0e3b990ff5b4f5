"""``python -m benchmarks.load.verdicts``: how often a verdict is wrong around its thresholds.

Twenty graded saturations of each kind against the mock engine, whose schedule is known; each is a run of its own:

- ``stall``: the client is held back from outside (SIGSTOP for 0 to 80 ms, four times a second): lag of loop and
  dispatch, whose bounds are 2.5 to 10 ms.
- ``rate``: 50 to 3,000 requests a second on one process: lag and the client's share of its core (70 and 90 %).
- ``slots``: fewer and fewer requests may be open at once, so that more of them are not sent (0.1 and 2 %).
- ``beginning``: users of a closed loop still begin in 0 to 80 % of the window (0 and 20 %).
- ``failures`` and ``hung``: the server fails, or never answers, a known share of the requests (1 and 10 %).

The truth is the error of the figures, what TTFT from due was reported (p50, p99) against the schedule, and the
share that is missing. Near a bound of a share both verdicts are fair. A run in which the mock engine was itself
late, or had no CPU left, says nothing and is not counted. Not graded are thresholds that nothing here can move by a
known amount without root (CPU quota, clock, collector of garbage), and those that alone never make a run INVALID.

No wrong figure may be VALID. A right one may be INVALID in one run of ten: it costs a second run, the other a
wrong decision; and what holds the client back for a moment shows in its lag before it shows in a percentile.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click

from benchmarks.gateway.machine import facts
from tri_serve.load.results.model import RunResult
from tri_serve.load.selftest import FULL, TTFT_MS, Mock, mock_engine

Kind = Literal["stall", "rate", "slots", "beginning", "failures", "hung"]
_SHARES = (0, 0.0025, 0.005, 0.0075, 0.01, 0.0125, 0.015, 0.02, 0.03, 0.04)
_SHARES += (0.05, 0.06, 0.07, 0.08, 0.09, 0.11, 0.125, 0.15, 0.25, 0.5)
_BEGINNING = (0, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.14, 0.16)
_BEGINNING += (0.18, 0.19, 0.21, 0.22, 0.24, 0.26, 0.3, 0.4, 0.6, 0.8)
GRADES: Mapping[Kind, tuple[float, ...]] = {
    "stall": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 20, 24, 32, 48, 80),
    "rate": tuple(round(50 * 60 ** (n / 19)) for n in range(20)),
    # Eight are open on average: of M/D/c/c with that load, 22 places lose 0.002 % and 3 lose 65 %.
    "slots": tuple(range(22, 2, -1)),
    "beginning": _BEGINNING,
    "failures": _SHARES,
    "hung": _SHARES,
}
PAUSE_EVERY = 0.25
RATE = 40
USERS = 20
TOKENS = 16
WRONG_MS, RIGHT_MS = 10.0, 2.5
"""Figures further off are wrong, nearer ones right; between them both verdicts are fair."""
FAIR_SHARES: Mapping[Kind, tuple[float, float]] = {
    "slots": (0.01, 0.04),
    "beginning": (0.18, 0.22),
    "failures": (0.08, 0.12),
    "hung": (0.08, 0.12),
}
"""Below the first a run is right, above the second wrong: around the share from which on it is to be INVALID, wide
enough for what a run of some hundred requests can tell apart."""
MOST_LATE_MS = 2.0
"""Of the mock's own mean TTFT."""
MOST_FALSE_VALID, MOST_FALSE_INVALID = 0.0, 0.1
"""Shares that are allowed."""

Truth = Literal["right", "between", "wrong"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One graded run."""

    kind: Kind
    grade: float
    error_ms: float
    """Of the reported latencies, against the schedule."""
    share: float
    """What is missing: of requests, or of users' time."""
    truth: Truth
    level: str
    reasons: tuple[str, ...]
    server_late_ms: float | None
    mock_cpu_share: float | None = None

    @property
    def says_something(self) -> bool:
        """Whether the server kept its times, so that the error is the client's."""
        full = self.mock_cpu_share is not None and self.mock_cpu_share >= FULL
        return self.server_late_ms is not None and self.server_late_ms < MOST_LATE_MS and not full


def truth_of(kind: Kind, error_ms: float, share: float) -> Truth:
    """What the verdict should say: whether latencies are off, or too much is missing."""
    right, wrong = FAIR_SHARES.get(kind, (math.inf, math.inf))
    if error_ms > WRONG_MS or share > wrong:
        return "wrong"
    return "right" if error_ms < RIGHT_MS and share < right else "between"


def wrong_verdicts(cells: Sequence[Cell]) -> dict[str, tuple[int, int]]:
    """How many of how many: VALID where the figures are wrong, INVALID where they are right."""
    judged = [cell for cell in cells if cell.says_something]
    wrong = [cell for cell in judged if cell.truth == "wrong"]
    right = [cell for cell in judged if cell.truth == "right"]
    return {
        "false-VALID": (sum(cell.level == "VALID" for cell in wrong), len(wrong)),
        "false-INVALID": (sum(cell.level == "INVALID" for cell in right), len(right)),
    }


def exit_code(found: Mapping[str, tuple[int, int]]) -> int:
    """1: more is wrong than may be; 2: nothing can be said of wrong figures, or nothing of right ones."""
    for name, most in (("false-VALID", MOST_FALSE_VALID), ("false-INVALID", MOST_FALSE_INVALID)):
        count, of = found[name]
        if count > most * of:
            return 1
    return 0 if all(of for _, of in found.values()) else 2


def scenario_text(kind: Kind, grade: float, seconds: float) -> str:
    """The scenario file of one run."""
    arrivals = f"{{kind: constant, rate: {RATE}}}"
    if kind == "rate":
        arrivals = f"{{kind: poisson, rate: {grade:g}}}"
    elif kind == "slots":
        arrivals = f"{{kind: poisson, rate: {RATE}}}"
    elif kind == "beginning":
        arrivals = f"{{kind: closed, users: {USERS}, stagger: {WARM_UP + grade * seconds:g}}}"
    return f"""\
title: graded saturation
arrivals: {arrivals}
workload:
  salt: false
  parts:
    - {{name: short, kind: written, input: {{fixed: 32}}, output: {{fixed: {TOKENS}}}, languages: {{en: 1}}}}
warm_up: {WARM_UP:g}
window: {seconds:g}
grace: 3
most_open: {int(grade) if kind == "slots" else 4096}
"""


WARM_UP = 1.0


def measure(kind: Kind, grade: float, mock: Mock, seconds: float, folder: Path) -> Cell:
    """One run. Raises RuntimeError where it leaves no result."""
    place = Path(tempfile.mkdtemp(prefix=f"{kind}-{grade:g}-", dir=folder))
    scenario = place / "graded.yaml"
    scenario.write_text(scenario_text(kind, grade, seconds), encoding="utf-8")
    argv = [sys.executable, "-m", "tri_serve.load.swarm", "--headless", "--only-summary"]
    argv += ["--host", mock.url, "--scenario", str(scenario), "--results", str(place)]
    used = mock.cpu_seconds()
    with (place / "log").open("wb") as log:
        run = subprocess.Popen(argv, stdout=log, stderr=log)
    ended = threading.Event()
    upset = threading.Thread(target=_upset(kind, grade, run.pid, mock, seconds, place, ended))
    upset.start()
    try:
        run.wait(seconds + 90)
    finally:
        ended.set()
        upset.join()
        run.kill()
        run.wait()
    path = place / "result.json"
    if not path.exists():
        raise RuntimeError(f"no result: {(place / 'log').read_text()[-500:]}")
    now = mock.cpu_seconds()
    busy = None if used is None or now is None else (now - used) / (WARM_UP + seconds)
    return cell_of(kind, grade, RunResult.model_validate_json(path.read_bytes()), busy)


def cell_of(kind: Kind, grade: float, result: RunResult, mock_cpu_share: float | None) -> Cell:
    """What one result says, beside what is known."""
    figures, server = result.figures, result.evidence.ttft_server_ms
    ttft = figures.latencies.get("ttft_sched")
    error = max(abs(ttft.p50 - TTFT_MS), abs(ttft.p99 - TTFT_MS)) if ttft is not None else float("inf")
    share = grade if kind in ("failures", "hung", "beginning") else 0.0
    if kind == "slots":
        share = figures.outcomes.get("unsent", 0) / max(1, figures.scheduled)
    return Cell(
        kind=kind,
        grade=grade,
        error_ms=error,
        share=share,
        truth=truth_of(kind, error, share),
        level=result.verdict.level.value,
        reasons=tuple(reason.name for reason in result.verdict.reasons),
        server_late_ms=None if server is None else server - TTFT_MS,
        mock_cpu_share=mock_cpu_share,
    )


def _upset(
    kind: Kind, grade: float, pid: int, mock: Mock, seconds: float, place: Path, ended: threading.Event
) -> Callable[[], None]:
    def stall() -> None:
        while not ended.wait(PAUSE_EVERY):
            if grade and next(place.glob("records-*"), None) is not None:
                # The run may end at any time.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    time.sleep(grade / 1000)
                    os.kill(pid, signal.SIGCONT)

    def fail() -> None:
        while next(place.glob("records-*"), None) is None:
            if ended.wait(0.1):
                return
        # The warm-up lasts a second; requests that fail in it are not counted.
        times = round(grade * RATE * seconds)
        if not ended.wait(2.0) and times:
            _order(mock, {"fault": "status=503" if kind == "failures" else "stall-before", "times": times})

    if kind == "stall":
        return stall
    return fail if kind in ("failures", "hung") else lambda: None


def _order(mock: Mock, fault: dict[str, object]) -> None:
    request = urllib.request.Request(
        f"{mock.url}/mock/fault",
        data=json.dumps(fault).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10):
        pass


@click.command(help=__doc__)
@click.option("--kinds", default=",".join(GRADES), show_default=True, help="With commas.")
@click.option("--every", default=1, show_default=True, help="Takes every so many of a kind's twenty grades.")
@click.option("--seconds", type=float, default=12.0, show_default=True, help="Window of each run.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the cells as JSON.")
def main(kinds: str, every: int, seconds: float, output: Path | None) -> None:
    """Print the table and both rates; 1 if more verdicts were wrong than may be, 2 if nothing can be said."""
    wanted = [kind for kind in GRADES if kind in kinds.split(",")]
    click.echo(f"{'saturation':<22} {'error':>10} {'missing':>8} {'truth':<8} {'verdict':<8} reasons")
    cells = []
    with tempfile.TemporaryDirectory() as folder, mock_engine() as mock:
        for kind in wanted:
            for grade in GRADES[kind][::every]:
                cell = measure(kind, grade, mock, seconds, Path(folder))
                _order(mock, {"fault": ""})
                cells.append(cell)
                click.echo(_line(cell))
    for kind in wanted:
        _print_rates(kind, [cell for cell in cells if cell.kind == kind])
    found = wrong_verdicts(cells)
    _print_rates("all", cells)
    if output is not None:
        document = {
            "machine": facts(),
            "seconds": seconds,
            "rates": found,
            "cells": [asdict(it) for it in cells],
        }
        output.write_text(json.dumps(document, indent=1) + "\n")
    sys.exit(exit_code(found))


def _print_rates(name: str, cells: Sequence[Cell]) -> None:
    judged = sum(cell.says_something for cell in cells)
    words = [f"{name:<10} {judged} of {len(cells)} runs judged"]
    for what, (count, of) in wrong_verdicts(cells).items():
        words.append(f"{what} {count} of {of}" + (f" ({count / of:.0%})" if of else ""))
    click.echo(", ".join(words))


def _line(cell: Cell) -> str:
    unit = {"stall": " ms", "rate": "/s", "slots": " places"}.get(cell.kind)
    graded = f"{cell.kind} {cell.grade:g}{unit}" if unit else f"{cell.kind} {cell.grade:.2%}"
    quiet = "" if cell.says_something else " (says nothing: the server was late or full)"
    return (
        f"{graded:<22} {cell.error_ms:>7.1f} ms {cell.share:>8.2%} {cell.truth:<8} {cell.level:<8} "
        f"{', '.join(cell.reasons)}{quiet}"
    )


if __name__ == "__main__":
    main()
