"""What a run is judged by, computed from its evidence and its figures. None: it was not measured."""

from __future__ import annotations

import math

from tri_serve.load.evidence import Evidence
from tri_serve.load.figures.model import Figures

_LITTLE_NOISE = 2.0
_QUICK_TTFT_MS = 100.0
ENOUGH_ANSWERS = 100.0
"""For a p99 that is not the slowest one."""


def slowness(figures: Figures) -> float:
    """Median TTFT in units of 100 ms, at least 1: a slow server's figures bear more lateness of the client."""
    ttft = figures.latencies.get("ttft")
    return 1.0 if ttft is None else max(1.0, ttft.p50 / _QUICK_TTFT_MS)


def lag_in_gaps(evidence: Evidence, figures: Figures) -> float | None:
    """Loop lag p99 ÷ p99 of the gaps between events; lag of less than 1 ms is that of any timer."""
    gaps, lag = figures.latencies.get("icl"), evidence.loop_lag_p99_ms
    if gaps is None or lag is None or gaps.p99 <= 0:
        return None
    return lag / gaps.p99 if lag > 1 else 0.0


def lag_share(evidence: Evidence, figures: Figures) -> float | None:
    """Dispatch lag p99 ÷ median TTFT; lag of less than 1 ms is that of any timer."""
    ttft, lag = figures.latencies.get("ttft"), evidence.dispatch_lag_p99_ms
    if ttft is None or lag is None or ttft.p50 <= 0:
        return None
    return lag / ttft.p50 if lag > 1 else 0.0


def throttled(evidence: Evidence, figures: Figures) -> float | None:
    seconds = evidence.throttled_seconds
    return None if seconds is None or figures.window_seconds <= 0 else seconds / figures.window_seconds


def not_sent(evidence: Evidence, figures: Figures) -> float | None:
    if not evidence.target_rate or evidence.achieved_rate is None:
        return None
    return max(0.0, 1 - evidence.achieved_rate / evidence.target_rate)


def little(evidence: Evidence, figures: Figures) -> float | None:
    """|N − X·R| ÷ the larger, less what chance makes of it.

    N·W − ΣR is the summed age of what is open at the window's end less the same at its begin. Each has a
    deviation of about √N·R/√3, their difference 0.8·√N·R: relative to N·W, two of these are 1.6·R ÷ (W·√N),
    taken as 2.
    """
    there, said = evidence.in_flight_mean, evidence.littles_law_mean
    e2e = figures.latencies.get("e2e")
    if there is None or said is None or e2e is None or figures.window_seconds <= 0 or max(there, said) <= 0:
        return None
    difference = abs(there - said) / max(there, said)
    chance = _LITTLE_NOISE * e2e.mean / 1000 / figures.window_seconds / math.sqrt(max(there, said))
    return max(0.0, difference - chance)


def cold(evidence: Evidence, figures: Figures) -> float | None:
    """p90 of end-to-end time ÷ warm-up, less the time over which users began: above 1 the window began before the
    load had its full depth."""
    e2e = figures.latencies.get("e2e")
    if evidence.warm_up_seconds is None or e2e is None:
        return None
    warm_up_ms = 1000 * (evidence.warm_up_seconds - (evidence.stagger_seconds or 0.0))
    return e2e.p90 / warm_up_ms if warm_up_ms > 0 else math.inf


def beginning(evidence: Evidence, figures: Figures) -> float | None:
    """Share of the window in which users of a closed loop still began."""
    stagger, warm_up = evidence.stagger_seconds, evidence.warm_up_seconds
    if stagger is None or warm_up is None or figures.window_seconds <= 0:
        return None
    return min(1.0, max(0.0, stagger - warm_up) / figures.window_seconds)


def idle_users(evidence: Evidence, figures: Figures) -> float | None:
    """Share of a closed loop's users that had nothing open, on average, though none of them pauses."""
    if not evidence.users or evidence.in_flight_mean is None:
        return None
    return max(0.0, 1 - evidence.in_flight_mean / evidence.users)


def unreported(evidence: Evidence, figures: Figures) -> float | None:
    """Share of the answers without ``usage``."""
    if evidence.without_usage is None or not evidence.answered:
        return None
    return evidence.without_usage / evidence.answered


def busiest(evidence: Evidence, figures: Figures) -> float | None:
    """Of one core. What a process used of less than a second is that of its begin and its end."""
    if not evidence.cpu_shares or figures.window_seconds < 1:
        return None
    return max(evidence.cpu_shares)


def few(evidence: Evidence, figures: Figures) -> float | None:
    """Answers that there are to be ÷ those there are."""
    if evidence.answered is None:
        return None
    return ENOUGH_ANSWERS / evidence.answered if evidence.answered else math.inf


def input_difference(evidence: Evidence, figures: Figures) -> float | None:
    tokens = figures.input_tokens
    return abs(tokens.reported - tokens.intended) / tokens.intended if tokens.intended else None


def cancelled(evidence: Evidence, figures: Figures) -> float | None:
    return figures.outcomes.get("cancelled", 0) / figures.scheduled if figures.scheduled else None


def hung(evidence: Evidence, figures: Figures) -> float | None:
    """Of those that were sent."""
    sent = figures.scheduled - figures.outcomes.get("unsent", 0)
    return evidence.hung / sent if evidence.hung is not None and sent else None


def ttft_drift(evidence: Evidence, figures: Figures) -> float | None:
    """Growth of client minus server TTFT ÷ client TTFT; less than 5 ms is nothing."""
    drift, client = evidence.ttft_drift_ms, evidence.ttft_client_ms
    if drift is None or not client:
        return None
    return abs(drift) / client if abs(drift) > 5 else 0.0


def ttft_below_server(evidence: Evidence, figures: Figures) -> float | None:
    client, server = evidence.ttft_client_ms, evidence.ttft_server_ms
    if client is None or not server:
        return None
    return max(0.0, server - client) / server if server - client > 1 else 0.0


def token_difference(evidence: Evidence, figures: Figures) -> float | None:
    client, server = evidence.tokens_client, evidence.tokens_server
    return None if client is None or not server else abs(client - server) / server


def number(count: float | bool | None) -> float | None:
    return None if count is None else float(count)
