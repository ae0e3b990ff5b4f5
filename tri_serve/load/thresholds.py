"""From where on a run's figures are doubted, and from where on they are not to be believed. All of it is data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tri_serve.load.evidence import Evidence
from tri_serve.load.figures.model import Figures

Cause = Literal["client", "load", "server"]
"""Whose doing it is: the client's machine, the described load, or the server's."""

Measure = Callable[[Evidence, Figures], float | None]


@dataclass(frozen=True, slots=True)
class Threshold:
    """One thing that is judged. What is above ``suspect`` is doubted, above ``invalid`` not believed."""

    name: str
    cause: Cause
    what: str
    """What the figure is, for a report's line."""
    measure: Measure
    """None: it was not measured."""
    suspect: float
    invalid: float
    """Infinite where it alone never makes a run invalid."""
    unit: str
    """``ms``, ``s``, ``%`` (the measure is then a share from 0 to 1), ``×``, ``yes`` (0 is no) or nothing."""
    why: str
    """Why the bounds lie where they do."""
    advice: str
    open_loop_only: bool = False
    steady_load_only: bool = False
    grows: Callable[[Figures], float] | None = None
    """What both bounds are multiplied by, 1 or more; none: nothing."""
    grows_with: str = ""
    """The same in words."""

    def bounds(self, figures: Figures) -> tuple[float, float]:
        """Above which a run with these figures is doubted, and above which it is not believed."""
        factor = 1.0 if self.grows is None else self.grows(figures)
        return self.suspect * factor, self.invalid * factor


_NEVER = math.inf
_MORE_CLIENT = (
    "give the client more processes (--processes), cores of its own, or lower the rate; "
    "tri-serve load selftest says what this machine can send"
)
_LITTLE_NOISE = 2.0
_QUICK_TTFT_MS = 100.0


def _slowness(figures: Figures) -> float:
    """Median TTFT in units of 100 ms, at least 1: a slow server's figures bear more lateness of the client."""
    ttft = figures.latencies.get("ttft")
    return 1.0 if ttft is None else max(1.0, ttft.p50 / _QUICK_TTFT_MS)


_WITH_TTFT = "in proportion where the median TTFT is above 100 ms"


def _lag_in_gaps(evidence: Evidence, figures: Figures) -> float | None:
    """Loop lag p99 ÷ p99 of the gaps between events; lag of less than 1 ms is that of any timer."""
    gaps, lag = figures.latencies.get("icl"), evidence.loop_lag_p99_ms
    if gaps is None or lag is None or gaps.p99 <= 0:
        return None
    return lag / gaps.p99 if lag > 1 else 0.0


def _lag_share(evidence: Evidence, figures: Figures) -> float | None:
    """Dispatch lag p99 ÷ median TTFT; lag of less than 1 ms is that of any timer."""
    ttft, lag = figures.latencies.get("ttft"), evidence.dispatch_lag_p99_ms
    if ttft is None or lag is None or ttft.p50 <= 0:
        return None
    return lag / ttft.p50 if lag > 1 else 0.0


def _throttled(evidence: Evidence, figures: Figures) -> float | None:
    seconds = evidence.throttled_seconds
    return None if seconds is None or figures.window_seconds <= 0 else seconds / figures.window_seconds


def _not_sent(evidence: Evidence, figures: Figures) -> float | None:
    if not evidence.target_rate or evidence.achieved_rate is None:
        return None
    return max(0.0, 1 - evidence.achieved_rate / evidence.target_rate)


def _little(evidence: Evidence, figures: Figures) -> float | None:
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


def _cold(evidence: Evidence, figures: Figures) -> float | None:
    """p90 of end-to-end time ÷ warm-up: above 1 the window began before the load had its full depth."""
    e2e = figures.latencies.get("e2e")
    if evidence.warm_up_seconds is None or e2e is None:
        return None
    warm_up_ms = 1000 * evidence.warm_up_seconds
    return e2e.p90 / warm_up_ms if warm_up_ms > 0 else math.inf


def _few(evidence: Evidence, figures: Figures) -> float | None:
    return None if evidence.answered is None else 100 / evidence.answered if evidence.answered else math.inf


def _input_difference(evidence: Evidence, figures: Figures) -> float | None:
    tokens = figures.input_tokens
    return abs(tokens.reported - tokens.intended) / tokens.intended if tokens.intended else None


def _cancelled(evidence: Evidence, figures: Figures) -> float | None:
    return figures.outcomes.get("cancelled", 0) / figures.scheduled if figures.scheduled else None


def _ttft_drift(evidence: Evidence, figures: Figures) -> float | None:
    """Growth of client minus server TTFT ÷ client TTFT; less than 5 ms is nothing."""
    drift, client = evidence.ttft_drift_ms, evidence.ttft_client_ms
    if drift is None or not client:
        return None
    return abs(drift) / client if abs(drift) > 5 else 0.0


def _ttft_below_server(evidence: Evidence, figures: Figures) -> float | None:
    client, server = evidence.ttft_client_ms, evidence.ttft_server_ms
    if client is None or not server:
        return None
    return max(0.0, server - client) / server if server - client > 1 else 0.0


def _token_difference(evidence: Evidence, figures: Figures) -> float | None:
    client, server = evidence.tokens_client, evidence.tokens_server
    return None if client is None or not server else abs(client - server) / server


def _number(count: float | bool | None) -> float | None:
    return None if count is None else float(count)


THRESHOLDS: tuple[Threshold, ...] = (
    Threshold(
        "dispatch-lag", "client", "requests were begun with late (p99)",
        lambda evidence, figures: evidence.dispatch_lag_p99_ms, 5.0, 10.0, "ms",
        "a tenth of the shortest promises in use (100 ms of TTFT) is lost in the client at 10 ms",
        _MORE_CLIENT, open_loop_only=True, grows=_slowness, grows_with=_WITH_TTFT,
    ),
    Threshold(
        "dispatch-lag-share", "client", "the client's lateness (p99) against the median TTFT",
        _lag_share, 0.05, 0.5, "%",
        "5% of a figure is what comparisons of servers are about; at half of it the client is measured",
        _MORE_CLIENT, open_loop_only=True,
    ),
    Threshold(
        "loop-lag", "client", "the event loop woke late (p99, worst process)",
        lambda evidence, figures: evidence.loop_lag_p99_ms, 2.5, 5.0, "ms",
        "a read is stamped when the loop comes to it: 5% of a TTFT of 100 ms",
        _MORE_CLIENT, grows=_slowness, grows_with=_WITH_TTFT,
    ),
    Threshold(
        "loop-lag-gaps", "client", "the event loop's lateness (p99) against the gaps between events (p99)",
        _lag_in_gaps, 0.2, _NEVER, "%",
        "a gap ends when the loop comes to it: the tail of icl, itl and max_gap is partly the client's own",
        "read TTFT and TPOT, not the tails of the gaps",
    ),
    Threshold(
        "cpu", "client", "the busiest client process used of one core",
        lambda evidence, figures: max(evidence.cpu_shares) if evidence.cpu_shares else None, 0.7, 0.9, "%",
        "what waits for a busy core grows as share ÷ (1 − share): 2.3 times an event at 70%, 9 times at 90%",
        _MORE_CLIENT,
    ),
    Threshold(
        "throttled", "client", "the container's CPU quota held the client back, of the window",
        _throttled, 0.001, 0.01, "%",
        "each throttling stops every stamp for up to a quota period (100 ms); 1% of time reaches every p99",
        "raise the CPU limit of the container, or run with fewer processes than it has cores",
    ),
    Threshold(
        "gc", "client", "the longest pause of the client's garbage collector",
        lambda evidence, figures: evidence.gc_pause_max_ms, 50.0, _NEVER, "ms",
        "one pause touches few requests: the maxima, not the percentiles",
        "read the maxima with that in mind",
    ),
    Threshold(
        "clock-step", "client", "the wall clock was set while the load ran, by",
        lambda evidence, figures: evidence.clock_step_ms, 500.0, _NEVER, "ms",
        "latencies are on the monotonic clock; what servers logged cannot be laid beside them",
        "see what sets the clock of this machine (chrony, ntpd, a suspended virtual machine)",
    ),
    Threshold(
        "processes-lost", "client", "processes of the client that did not report",
        lambda evidence, figures: _number(evidence.processes_lost), 0.0, 0.0, "",
        "their requests were part of the load and are missing in every figure",
        "look into the run's folder for the log of the process, and run again",
    ),
    Threshold(
        "records-lost", "client", "requests whose record could not be written",
        lambda evidence, figures: _number(evidence.records_lost), 0.0, _NEVER, "",
        "the figures have them, the files do not",
        "free space where --output points to",
    ),
    Threshold(
        "not-sent", "client", "requests that were due and were not sent",
        _not_sent, 0.001, 0.02, "%",
        "the load was lighter than it is said to be; at 2% a queue near its limit is another one",
        "raise most_open if the server was slow, else: " + _MORE_CLIENT, open_loop_only=True,
    ),
    Threshold(
        "littles-law", "load", "requests open on average against completions × time (N = X·R), beyond chance",
        _little, 0.05, _NEVER, "%",
        "the two agree in a steady window; else a queue grew or emptied, and figures depend on the length",
        "lower the rate below what the server keeps up with, or lengthen warm_up and window", steady_load_only=True,
    ),
    Threshold(
        "ttft-growth", "load", "mean TTFT of the window's second half against its first",
        lambda evidence, figures: evidence.ttft_growth, 1.5, _NEVER, "×",
        "a TTFT that grows under an even load is a queue that grows: its percentiles depend on the length",
        "lower the rate below what the server keeps up with, or lengthen warm_up", steady_load_only=True,
    ),
    Threshold(
        "warm-up", "load", "end-to-end time (p90) against the warm-up",
        _cold, 1.0, _NEVER, "×",
        "the load has its full depth only when its first requests have ended",
        "set warm_up to more than that time", steady_load_only=True,
    ),
    Threshold(
        "few", "load", "100 answers, against those there are",
        _few, 1.0, _NEVER, "×",
        "of fewer than 100 the p99 is the slowest one",
        "lengthen the window, or read medians only",
    ),
    Threshold(
        "cancelled", "load", "requests of the window still running at the end, left out of every figure",
        _cancelled, 0.02, _NEVER, "%",
        "the longest ones are the ones left out",
        "raise grace",
    ),
    Threshold(
        "stopped", "load", "the run was stopped before its end",
        lambda evidence, figures: _number(evidence.stopped_early), 0.0, _NEVER, "yes",
        "what was running then is left out, and the long requests run longest",
        "let it run to its end",
    ),
    Threshold(
        "input-tokens", "client", "input tokens that the server counted against those intended",
        _input_difference, 0.02, 0.2, "%",
        "another tokenizer or chat template than the server's: the load is not the one described",
        "give the served model's tokenizer.json with --tokenizer",
    ),
    Threshold(
        "ttft-drift", "load", "client and engine TTFT drifted apart, of the client's",
        _ttft_drift, 0.1, _NEVER, "%",
        "what grows between them is a queue in the client, the network or the gateway, not in the engine",
        "see the TTFT split; if the client's part grew: " + _MORE_CLIENT,
    ),
    Threshold(
        "ttft-below-server", "load", "the client's mean TTFT is below the engines', by",
        _ttft_below_server, 0.05, _NEVER, "%",
        "impossible for the same requests: others load the engines too, or the windows differ",
        "keep other clients away while measuring",
    ),
    Threshold(
        "tokens", "load", "the client's output tokens against the engines'",
        _token_difference, 0.02, _NEVER, "%",
        "the engines worked for others too, or the client's count is wrong",
        "keep other clients away while measuring",
    ),
    Threshold(
        "failures", "server", "requests that failed",
        lambda evidence, figures: evidence.failure_share, 0.01, 0.1, "%",
        "latencies are those of the survivors, and failed ones leave the others more of the server",
        "see what failed and why; lower the rate if the server refused or timed out",
    ),
    Threshold(
        "engine-restarts", "server", "engines that began anew while the load ran",
        lambda evidence, figures: _number(evidence.engine_restarts), 0.0, 0.0, "",
        "for a while the fleet was smaller than it is said to be",
        "read the engine's log (tri-serve logs), and run again",
    ),
)  # fmt: skip
"""In the order in which a report names them."""
