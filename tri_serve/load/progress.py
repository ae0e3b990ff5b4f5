"""What a running load says of itself, a JSON object a line: for the live view, and for whoever pipes it.

The swarm writes ``Progress`` about once a second, and ``Ended`` or ``Failed`` as its last line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Stage = Literal["preparing", "warm-up", "window", "cool-down", "ending", "reporting"]
"""``preparing``: until the first request may go; ``ending``: nothing new is sent, what is open may end."""


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Progress(_Line):
    """Where a run is. Figures are of the window alone; None: nothing to say yet."""

    kind: Literal["progress"] = "progress"
    stage: Stage
    note: str = ""
    """What is being done, for a person: ``making 600 prompts``."""
    elapsed: float = 0.0
    """Seconds since the first request could go."""
    total: float = 0.0
    """Seconds from then until nothing new is sent: warm-up, window and cool-down."""
    scenario: str = ""
    processes: int = 0
    open_requests: int = 0
    scheduled: int = 0
    completed: int = 0
    """Answered whole and right."""
    failed: int = 0
    unsent: int = 0
    outcomes: Mapping[str, int] = {}
    """How many of each outcome other than ok."""
    target_rate: float | None = None
    """Requests a second; none in a closed loop."""
    requests_per_second: float | None = None
    output_tokens_per_second: float | None = None
    ttft_p50_ms: float | None = None
    ttft_p99_ms: float | None = None
    tpot_p50_ms: float | None = None
    tpot_p99_ms: float | None = None
    itl_p99_ms: float | None = None
    e2e_p50_ms: float | None = None
    e2e_p99_ms: float | None = None
    goodput_share: float | None = None
    """Of all scheduled, 0 to 1; none where no SLO is set."""
    dispatch_lag_p99_ms: float | None = None
    loop_lag_p99_ms: float | None = None
    cpu_share: float | None = None
    """Of the busiest process, of one core."""


class Ended(_Line):
    """The last line of a run that left a result."""

    kind: Literal["ended"] = "ended"
    result: str
    """Path of result.json; empty where it could not be written."""
    inline: Mapping[str, Any] | None = None
    """The result itself, where it could not be written."""
    complete: bool
    exit_code: int
    remarks: tuple[str, ...] = ()
    """What a person must know beside the result: a disk that was full."""


class Failed(_Line):
    """The last line of a run that left none."""

    kind: Literal["failed"] = "failed"
    error: str
    hint: str | None = None
    exit_code: int


Line = Annotated[Progress | Ended | Failed, Field(discriminator="kind")]


def parse_line(text: str | bytes) -> Progress | Ended | Failed:
    """One line. Raises pydantic's ValidationError at what is none."""
    line: Progress | Ended | Failed = TypeAdapter(Line).validate_json(text)
    return line
