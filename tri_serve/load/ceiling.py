"""What load this machine can send and measure, as ``tri-serve load selftest`` found it, and kept for later runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from tri_serve.places import state_dir
from tri_serve.spec.fields import SpecModel

FORMAT: Final = 1
NEAR = 0.8
"""Share of a ceiling from which on a run is warned: another server makes other chunks, and a client's CPU is not
only its own."""

Kind = Literal["requests", "events"]


class Trial(SpecModel):
    """One load against the mock engine, by one process of the client."""

    kind: Kind
    """What was raised from trial to trial: short answers, or long ones with many events."""
    requests_per_second: float
    """That were due."""
    events_per_second: float
    """That came."""
    open_requests: float
    """On average."""
    dispatch_lag_p99_ms: float | None
    loop_lag_p99_ms: float | None
    cpu_share: float | None
    """Of one core, by the client."""
    cpu_wait_share: float | None
    """Share of the time in which the client was ready and had no CPU: what else ran here."""
    mock_cpu_share: float | None
    """Of one core, by the mock engine."""
    ttft_p50_above_ms: float | None
    """Median TTFT less the mock engine's own: what the client, the kernel and the mock engine's lateness add."""
    believed: bool
    """Whether the verdict found nothing that speaks against the client."""
    doubts: tuple[str, ...]
    """What it found."""
    mock_was_full: bool
    """Whether the mock engine, and not the client, was what could not go on."""


class Ceiling(SpecModel):
    """Of one process of the client. It is of this machine as it was then: what else ran on it counts."""

    format: Literal[1] = FORMAT
    measured_at: str
    """ISO 8601."""
    version: str
    """Of tri-serve."""
    cpu: str
    cores: int
    """That the processes could use, the mock engine among them."""
    requests_per_second: float
    """Of short answers: the highest rate that was believed; 0 if none was."""
    events_per_second: float
    """Server-sent events of long answers: the same."""
    requests_at_least: bool
    """Whether the trials ended with the mock engine full, or with the last rate tried: the client can do more."""
    events_at_least: bool
    trials: tuple[Trial, ...]


def ceiling_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where it is kept."""
    return state_dir(environ) / "load-ceiling.json"


def write_ceiling(ceiling: Ceiling, path: Path) -> None:
    """Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(ceiling.model_dump_json(indent=1), encoding="utf-8")
    beside.replace(path)


def read_ceiling(path: Path, *, cpu: str, cores: int) -> Ceiling | None:
    """None if none was measured, or on another machine than one with this ``cpu`` and ``cores``."""
    try:
        ceiling = Ceiling.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return ceiling if (ceiling.cpu, ceiling.cores) == (cpu, cores) else None


def warning(
    ceiling: Ceiling | None, *, requests_per_second: float, output_tokens: float, processes: int
) -> str | None:
    """What to say before a run of that rate and mean answer length; None if it is well under the ceiling.

    A rate of short answers is bounded by requests, one of long answers by events; the nearer bound counts.
    """
    if ceiling is None or min(ceiling.requests_per_second, ceiling.events_per_second) <= 0:
        return None
    each = requests_per_second / max(1, processes)
    events = each * output_tokens
    share = max(each / ceiling.requests_per_second, events / ceiling.events_per_second)
    if share <= NEAR:
        return None
    needed = -(-processes * share // NEAR)
    advice = (
        f"--processes {needed:.0f} would do"
        if needed <= ceiling.cores
        else f"this takes {needed:.0f} processes, and here are {ceiling.cores} cores: use several machines"
    )
    return (
        f"this load is {share:.0%} of what a process of the client was measured to do on this machine "
        f"({ceiling.requests_per_second:,.0f} requests/s or {ceiling.events_per_second:,.0f} events/s); {advice}"
    )
