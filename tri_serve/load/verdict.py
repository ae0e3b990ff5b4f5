"""Whether a run's figures may be believed, and whether they keep what was promised."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from tri_serve.errors import (
    ClientSaturatedError,
    ServerUnhealthyError,
    SloMissedError,
    TriServeError,
)
from tri_serve.load.evidence import Evidence
from tri_serve.load.figures.model import Figures
from tri_serve.load.thresholds import THRESHOLDS, Cause, Threshold
from tri_serve.spec.slo import Slo

__all__ = [
    "SLO_SHARE",
    "Evidence",
    "Level",
    "Reason",
    "Verdict",
    "error_of",
    "fault_of",
    "judge_run",
    "judged_value",
]

SLO_SHARE = 0.99
"""Share of scheduled requests that must keep every promise: MLPerf's server scenario bounds the p99 as well."""


class VerdictModel(BaseModel):
    """Frozen, and strict about what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Level(StrEnum):
    """How far the figures may be believed."""

    VALID = "VALID"
    SUSPECT = "SUSPECT"
    INVALID = "INVALID"


class Reason(VerdictModel):
    """One thing that speaks against the figures."""

    name: str
    """Of the threshold (load/thresholds.py)."""
    level: Level
    cause: Cause
    what: str
    """What was judged."""
    figure: str
    """What was found, with its unit."""
    threshold: str
    """What is allowed."""
    at_least: bool = False
    """Whether ``threshold`` is what there is to be at least, not at most."""
    why: str
    advice: str
    """What to do."""

    @property
    def said(self) -> str:
        """What was found against what is allowed, in one line."""
        if self.at_least:
            return f"{self.figure} {self.what}; {self.threshold} are wanted"
        return f"{self.what}: {self.figure}; allowed {self.threshold}"


class Verdict(VerdictModel):
    """What the evidence comes to."""

    level: Level
    reasons: tuple[Reason, ...]
    """Worst first."""
    not_measured: tuple[str, ...]
    """Names of the thresholds that nothing was measured for."""
    slo: str
    """What was promised, as ``--slo`` takes it; empty: nothing."""
    slo_met: bool | None
    """Whether enough requests kept every promise; none without an SLO, or without requests."""
    exit_code: int
    """0 pass, 1 SLO missed, 4 client saturated, 5 server unhealthy."""


_BLAMED: tuple[Cause, ...] = ("server", "client", "load")


def fault_of(reasons: Iterable[Reason]) -> Cause | None:
    """Whose doing it is that a run is INVALID; None: it is not.

    The server's failures first: what it answered wrongly is wrong whoever measured it, and requests pile up in the
    client of a server that hangs.
    """
    causes = {reason.cause for reason in reasons if reason.level is Level.INVALID}
    return next((cause for cause in _BLAMED if cause in causes), None)


def judge_run(evidence: Evidence, figures: Figures, slo: Slo) -> Verdict:
    """What ``evidence`` says of ``figures``, and whether they keep ``slo``."""
    reasons: list[Reason] = []
    missing: list[str] = []
    for threshold in THRESHOLDS:
        if _is_meant(threshold, evidence):
            value = threshold.measure(evidence, figures)
            if value is None:
                missing.append(threshold.name)
            else:
                bounds = threshold.bounds(figures)
                if value > bounds[0]:
                    reasons.append(_reason(threshold, value, bounds))
    if not figures.outcomes.get("ok"):
        reasons.append(_nothing_answered(figures))
    reasons.sort(key=lambda reason: reason.level is not Level.INVALID)
    level = reasons[0].level if reasons else Level.VALID
    promised = str(slo)
    share = figures.goodput.share
    met = None if not promised or share is None else share >= SLO_SHARE
    return Verdict(
        level=level,
        reasons=tuple(reasons),
        not_measured=tuple(missing),
        slo=promised,
        slo_met=met,
        exit_code=_exit_code(reasons, met),
    )


def error_of(verdict: Verdict) -> TriServeError | None:
    """What a command that printed the report ends with; None: it passed."""
    if verdict.exit_code == ClientSaturatedError.exit_code:
        reason = _first_invalid(verdict)
        return ClientSaturatedError(
            f"the figures are not to be believed: {reason.said}",
            hint=reason.advice,
        )
    if verdict.exit_code == ServerUnhealthyError.exit_code:
        reason = _first_invalid(verdict)
        return ServerUnhealthyError(f"{reason.what}: {reason.figure}", hint=reason.advice)
    if verdict.exit_code == SloMissedError.exit_code:
        return SloMissedError(f"fewer than {SLO_SHARE:.0%} of the requests kept {verdict.slo}")
    return None


def judged_value(threshold: Threshold, evidence: Evidence, figures: Figures) -> tuple[str, str, str]:
    """For a report's table: what was found, above what it is doubted, above what it is not believed."""
    value = threshold.measure(evidence, figures)
    if not _is_meant(threshold, evidence):
        found = "does not apply"
    elif value is None:
        found = "not measured"
    else:
        found = _told(threshold, value)
    suspect, invalid = threshold.bounds(figures)
    return (
        found,
        f"fewer than {_told(threshold, suspect)}" if threshold.least else _told(threshold, suspect),
        "–" if math.isinf(invalid) else _told(threshold, invalid),
    )


def _first_invalid(verdict: Verdict) -> Reason:
    """The reason that set the exit code."""
    server = verdict.exit_code == ServerUnhealthyError.exit_code
    return next(
        reason
        for reason in verdict.reasons
        if reason.level is Level.INVALID and (reason.cause == "server") == server
    )


def _is_meant(threshold: Threshold, evidence: Evidence) -> bool:
    if threshold.open_loop_only and evidence.open_loop is False:
        return False
    if threshold.closed_loop_only and evidence.open_loop is not False:
        return False
    if threshold.whole_runs_only and evidence.stopped_early:
        return False
    return not (threshold.steady_load_only and evidence.steady_load is False)


def _reason(threshold: Threshold, value: float, bounds: tuple[float, float]) -> Reason:
    invalid = value > bounds[1]
    return Reason(
        name=threshold.name,
        level=Level.INVALID if invalid else Level.SUSPECT,
        cause=threshold.cause,
        what=threshold.what,
        figure=_told(threshold, value),
        threshold=_told(threshold, bounds[1] if invalid else bounds[0]),
        at_least=threshold.least is not None,
        why=threshold.why,
        advice=threshold.advice,
    )


def _nothing_answered(figures: Figures) -> Reason:
    if not figures.scheduled:
        return Reason(
            name="nothing-due",
            level=Level.INVALID,
            cause="load",
            what="requests that were due in the window",
            figure="0",
            threshold="1 or more",
            why="there is nothing to make figures of",
            advice="lengthen the window, or raise the rate",
        )
    return Reason(
        name="nothing-answered",
        level=Level.INVALID,
        # Only where nothing was sent at all is it not the server that gave no answer.
        cause="server" if figures.outcomes.get("unsent", 0) < figures.scheduled else "client",
        what="requests that were answered",
        figure=f"0 of {figures.scheduled}",
        threshold="1",
        why="there is nothing to make figures of",
        advice="see what failed; ask the server once by hand: tri-serve chat, or curl",
    )


def _told(threshold: Threshold, value: float) -> str:
    """A measure with its unit, or what there is of a thing that there is to be enough of."""
    if threshold.least is not None:
        return f"{threshold.least / value:,.0f}"
    return _with_unit(value, threshold.unit)


def _with_unit(value: float, unit: str) -> str:
    if math.isinf(value):
        return "no end"
    if unit == "%":
        return f"{100 * value:.3g}%"
    if unit == "yes":
        return "yes" if value else "no"
    if unit == "×":
        return f"{value:.3g}×"
    if unit:
        return f"{value:.3g} {unit}"
    return f"{value:g}"


def _exit_code(reasons: list[Reason], slo_met: bool | None) -> int:
    fault = fault_of(reasons)
    if fault is not None:
        return (ServerUnhealthyError if fault == "server" else ClientSaturatedError).exit_code
    return SloMissedError.exit_code if slo_met is False else 0
