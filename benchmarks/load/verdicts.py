"""``python -m benchmarks.load.verdicts``: how often a verdict is wrong around its thresholds.

Twenty graded saturations against the mock engine, whose schedule is known. In twelve the client is held back from
outside (SIGSTOP for so many ms, four times a second), from not at all to far too long; in eight the server fails a
known number of requests. The truth is the error of the figures: what TTFT from due was reported (p50, p99) against
the schedule; or the share that failed. A run in which the mock itself was late says nothing and is not counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click

from benchmarks.gateway.machine import facts
from tri_serve.load.results.model import RunResult
from tri_serve.load.selftest import TTFT_MS, Mock, mock_engine

PAUSES_MS = (0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0, 24.0, 40.0, 80.0)
"""The bounds of lag are 5 and 10 ms: most grades lie around them."""
FAILING = (0.0, 0.005, 0.02, 0.05, 0.08, 0.12, 0.2, 0.5)
"""The bounds of failures are 1% and 10%."""
PAUSE_EVERY = 0.25
RATE = 40
WRONG_MS, RIGHT_MS = 10.0, 2.5
"""Figures further off are wrong, nearer ones right; between them both verdicts are fair."""
WRONG_SHARE = 0.1
MOST_LATE_MS = 2.0
"""Of the mock's own mean TTFT."""

Truth = Literal["right", "between", "wrong"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One graded run."""

    kind: Literal["stall", "failures"]
    grade: float
    error_ms: float
    """Of the reported latencies, against the schedule."""
    truth: Truth
    level: str
    reasons: tuple[str, ...]
    server_late_ms: float | None

    @property
    def says_something(self) -> bool:
        """Whether the server kept its times, so that the error is the client's."""
        return self.server_late_ms is not None and self.server_late_ms < MOST_LATE_MS


def truth_of(error_ms: float, failing: float) -> Truth:
    """What the verdict should say: whether latencies are off, or too many are those of survivors."""
    if error_ms > WRONG_MS or failing > WRONG_SHARE:
        return "wrong"
    return "right" if error_ms < RIGHT_MS else "between"


def wrong_verdicts(cells: Sequence[Cell]) -> dict[str, tuple[int, int]]:
    """How many of how many: VALID where the figures are wrong, INVALID where they are right."""
    judged = [cell for cell in cells if cell.says_something]
    wrong = [cell for cell in judged if cell.truth == "wrong"]
    right = [cell for cell in judged if cell.truth == "right"]
    return {
        "false-VALID": (sum(cell.level == "VALID" for cell in wrong), len(wrong)),
        "false-INVALID": (sum(cell.level == "INVALID" for cell in right), len(right)),
    }


def _scenario(seconds: float) -> str:
    return f"""\
title: graded saturation
arrivals: {{kind: constant, rate: {RATE}}}
workload:
  salt: false
  parts:
    - {{name: short, kind: written, input: {{fixed: 32}}, output: {{fixed: 16}}, languages: {{en: 1}}}}
warm_up: 1
window: {seconds}
"""


def measure(
    kind: Literal["stall", "failures"], grade: float, mock: Mock, seconds: float, folder: Path
) -> Cell:
    """One run. Raises RuntimeError where it leaves no result."""
    place = Path(tempfile.mkdtemp(prefix=f"{kind}-{grade:g}-", dir=folder))
    scenario = place / "graded.yaml"
    scenario.write_text(_scenario(seconds), encoding="utf-8")
    argv = [sys.executable, "-m", "tri_serve.load.swarm", "--headless", "--only-summary"]
    argv += ["--host", mock.url, "--scenario", str(scenario), "--results", str(place)]
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
    return cell_of(kind, grade, RunResult.model_validate_json(path.read_bytes()))


def cell_of(kind: Literal["stall", "failures"], grade: float, result: RunResult) -> Cell:
    """What one result says, beside what is known."""
    ttft, server = result.figures.latencies.get("ttft_sched"), result.evidence.ttft_server_ms
    error = max(abs(ttft.p50 - TTFT_MS), abs(ttft.p99 - TTFT_MS)) if ttft is not None else float("inf")
    return Cell(
        kind=kind,
        grade=grade,
        error_ms=error,
        truth=truth_of(error, grade if kind == "failures" else 0.0),
        level=result.verdict.level.value,
        reasons=tuple(reason.name for reason in result.verdict.reasons),
        server_late_ms=None if server is None else server - TTFT_MS,
    )


def _upset(
    kind: str, grade: float, pid: int, mock: Mock, seconds: float, place: Path, ended: threading.Event
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
            _order(mock, {"fault": "status=503", "times": times})

    return stall if kind == "stall" else fail


def _order(mock: Mock, fault: dict[str, object]) -> None:
    request = urllib.request.Request(
        f"{mock.url}/mock/fault",
        data=json.dumps(fault).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10):
        pass


@click.command(help=__doc__)
@click.option("--seconds", type=float, default=12.0, show_default=True, help="Window of each run.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the cells as JSON.")
def main(seconds: float, output: Path | None) -> None:
    """Print the table and both rates; 1 if a wrong figure was called VALID, 2 if nothing can be said."""
    grades: list[tuple[Literal["stall", "failures"], float]] = [("stall", grade) for grade in PAUSES_MS]
    grades += [("failures", grade) for grade in FAILING]
    click.echo(f"{'saturation':<18} {'error':>10} {'truth':<8} {'verdict':<8} reasons")
    cells = []
    with tempfile.TemporaryDirectory() as folder, mock_engine() as mock:
        for kind, grade in grades:
            cell = measure(kind, grade, mock, seconds, Path(folder))
            _order(mock, {"fault": ""})
            cells.append(cell)
            click.echo(_line(cell))
    found = wrong_verdicts(cells)
    for name, (count, of) in found.items():
        click.echo(f"{name}: {count} of {of}")
    if output is not None:
        output.write_text(
            json.dumps({"machine": facts(), "cells": [asdict(cell) for cell in cells]}, indent=1) + "\n"
        )
    sys.exit(1 if found["false-VALID"][0] else 0 if any(of for _, of in found.values()) else 2)


def _line(cell: Cell) -> str:
    graded = f"{cell.kind} {cell.grade:g} ms" if cell.kind == "stall" else f"{cell.kind} {cell.grade:.1%}"
    quiet = "" if cell.says_something else " (says nothing: the server was late)"
    return f"{graded:<18} {cell.error_ms:>7.1f} ms {cell.truth:<8} {cell.level:<8} {', '.join(cell.reasons)}{quiet}"


if __name__ == "__main__":
    main()
