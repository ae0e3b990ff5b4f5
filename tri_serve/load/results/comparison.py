"""What a comparison of results says, typed, and what a command that printed it ends with."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from tri_serve.errors import (
    ClientSaturatedError,
    RegressionError,
    ServerUnhealthyError,
    TriServeError,
    UsageError,
)

Direction = Literal["better", "worse", "no difference"]
Unbelieved = Literal["client", "incomplete", "server"]
"""What makes a run nothing to compare by: its client was the limit, it was stopped, or its server failed."""


class Difference(BaseModel):
    """One figure of both sides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    unit: str
    base: float | None
    """None: there is no such figure, since nothing was answered, or not in every round."""
    other: float | None
    change: float | None
    """other ÷ base − 1; None where one of them is missing, or ``base`` is 0."""
    low: float | None
    high: float | None
    """95 % interval of ``change``; None without one."""
    direction: Direction
    """By more than chance and 1 %: the interval does not hold 0, or only one side has the figure at all."""
    judged: bool
    """Whether it can be a regression; a percentile of too few requests cannot."""


class Comparison(BaseModel):
    """One side against another."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: tuple[str, ...]
    """Runs of the one side."""
    other: tuple[str, ...]
    by: Literal["rounds", "requests"]
    """What was resampled: whole runs, or the requests of one run each."""
    allowed: float
    differences: tuple[Difference, ...]
    regressions: tuple[str, ...]
    """Names of what is worse by more than chance and by more than ``allowed``."""
    remarks: tuple[str, ...]
    believed: bool
    """Whether every run went to its end, and none is INVALID, whoever's doing that was."""
    unbelieved: Unbelieved | None = None
    """Why it is not; the client's fault first."""


def error_of(comparison: Comparison) -> TriServeError | None:
    """What a command that printed the comparison ends with; None: no regression.

    A server that failed under one side only has made that side worse: a regression comes before it.
    """
    if comparison.unbelieved == "client":
        return ClientSaturatedError(
            "a run in the comparison is INVALID: its client was the limit, so that nothing follows from it",
            hint="run it again with more client processes, or at a lower rate",
        )
    if comparison.unbelieved == "incomplete":
        return UsageError(
            "a run in the comparison was stopped before its end, so that nothing follows from it",
            hint="run it again and let it end",
        )
    if comparison.regressions:
        return RegressionError(
            f"worse by more than chance and more than {comparison.allowed:.0%}: {', '.join(comparison.regressions)}"
        )
    if comparison.unbelieved == "server":
        return ServerUnhealthyError(
            "a run in the comparison is INVALID: its server failed, so that nothing follows from it",
            hint="see in its report what failed (tri-serve load report), and run it again",
        )
    return None
