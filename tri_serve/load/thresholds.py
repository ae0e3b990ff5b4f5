"""From where on a run's figures are doubted, and from where on they are not to be believed. All of it is data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tri_serve.load import measures
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
    closed_loop_only: bool = False
    whole_runs_only: bool = False
    """Not of a run that was stopped, which is what the advice would be for."""
    least: float | None = None
    """Of something of which there is to be at least so much: the measure is ``least`` ÷ what there is, and a report
    says what there is."""
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
    "give the client more processes (--processes), cores of its own or the right to real-time scheduling "
    "(ulimit -r 1), or lower the rate; "
    "tri-serve load selftest says what this machine can send"
)
_WITH_TTFT = "in proportion where the median TTFT is above 100 ms"

THRESHOLDS: tuple[Threshold, ...] = (
    Threshold(
        "dispatch-lag", "client", "requests were begun with late (p99)",
        lambda evidence, figures: evidence.dispatch_lag_p99_ms, 5.0, 10.0, "ms",
        "a tenth of the shortest promises in use (100 ms of TTFT) is lost in the client at 10 ms",
        _MORE_CLIENT, open_loop_only=True, grows=measures.slowness, grows_with=_WITH_TTFT,
    ),
    Threshold(
        "dispatch-lag-share", "client", "the client's lateness (p99) against the median TTFT",
        measures.lag_share, 0.05, 0.5, "%",
        "5% of a figure is what comparisons of servers are about; at half of it the client is measured",
        _MORE_CLIENT, open_loop_only=True,
    ),
    Threshold(
        "loop-lag", "client", "the event loop woke late (p99, worst process)",
        lambda evidence, figures: evidence.loop_lag_p99_ms, 2.5, 5.0, "ms",
        "a read is stamped when the loop comes to it: 5% of a TTFT of 100 ms",
        _MORE_CLIENT, grows=measures.slowness, grows_with=_WITH_TTFT,
    ),
    Threshold(
        "loop-lag-gaps", "client", "the event loop's lateness (p99) against the gaps between events (p99)",
        measures.lag_in_gaps, 0.2, _NEVER, "%",
        "a gap ends when the loop comes to it: the tail of icl, itl and max_gap is partly the client's own",
        "read TTFT and TPOT, not the tails of the gaps",
    ),
    Threshold(
        "cpu", "client", "the busiest client process used of one core",
        measures.busiest, 0.7, 0.9, "%",
        "what waits for a busy core grows as share ÷ (1 − share): 2.3 times an event at 70%, 9 times at 90%",
        _MORE_CLIENT,
    ),
    Threshold(
        "throttled", "client", "the container's CPU quota held the client back, of the window",
        measures.throttled, 0.001, 0.01, "%",
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
        lambda evidence, figures: measures.number(evidence.processes_lost), 0.0, 0.0, "",
        "their requests were part of the load and are missing in every figure",
        "look into the run's folder for the log of the process, and run again",
    ),
    Threshold(
        "records-lost", "client", "requests whose record could not be written",
        lambda evidence, figures: measures.number(evidence.records_lost), 0.0, _NEVER, "",
        "the figures have them, the files do not",
        "free space where the run's folder lies (--output-dir)",
    ),
    Threshold(
        "not-sent", "client", "requests that were due and were not sent",
        measures.not_sent, 0.001, 0.02, "%",
        "the load was lighter than it is said to be; at 2% a queue near its limit is another one",
        "raise most_open (beside a rate, --max-concurrency) if the server was slow, else: " + _MORE_CLIENT,
        open_loop_only=True,
    ),
    Threshold(
        "littles-law", "load", "requests open on average against completions × time (N = X·R), beyond chance",
        measures.little, 0.05, _NEVER, "%",
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
        measures.cold, 1.0, _NEVER, "×",
        "the load has its full depth only when its first requests have ended",
        "set warm_up to more than that time", steady_load_only=True,
    ),
    Threshold(
        "beginning", "load", "users of the closed loop still began, of the window",
        measures.beginning, 0.0, 0.2, "%",
        "until the last one has begun the load is a lighter one; at 20% a tenth of the users' time is missing",
        "set warm_up above arrivals.stagger, or begin faster (with Locust's options: -r)",
        closed_loop_only=True,
    ),
    Threshold(
        "idle-users", "load", "users of the closed loop without an open request, on average",
        measures.idle_users, 0.1, _NEVER, "%",
        "each asks again as soon as it is answered: the described load is one request for each",
        "see whether requests failed; lengthen the window, or ask for more requests than a few for each user",
        closed_loop_only=True,
    ),
    Threshold(
        "few", "load", "answers",
        measures.few, 1.0, _NEVER, "",
        "of fewer than 100 the p99 is the slowest one",
        "lengthen the window, or read medians only", least=measures.ENOUGH_ANSWERS,
    ),
    Threshold(
        "cancelled", "load", "requests of the window still running at the end, left out of every figure",
        measures.cancelled, 0.02, _NEVER, "%",
        "the longest ones are the ones left out",
        "raise grace", whole_runs_only=True,
    ),
    Threshold(
        "stopped", "load", "the run was stopped before its end",
        lambda evidence, figures: measures.number(evidence.stopped_early), 0.0, _NEVER, "yes",
        "what was running then is left out, and the long requests run longest",
        "let it run to its end",
    ),
    Threshold(
        "input-tokens", "client", "input tokens that the server counted against those intended",
        measures.input_difference, 0.02, 0.2, "%",
        "another tokenizer or chat template than the server's: the load is not the one described",
        "give the served model's tokenizer.json with --tokenizer",
    ),
    Threshold(
        "ttft-drift", "load", "client and engine TTFT drifted apart, of the client's",
        measures.ttft_drift, 0.1, _NEVER, "%",
        "what grows between them is a queue in the client, the network or the gateway, not in the engine",
        "see the TTFT split; if the client's part grew: " + _MORE_CLIENT,
    ),
    Threshold(
        "ttft-below-server", "load", "the client's mean TTFT is below the engines', by",
        measures.ttft_below_server, 0.05, _NEVER, "%",
        "impossible for the same requests: others load the engines too, or the windows differ",
        "keep other clients away while measuring",
    ),
    Threshold(
        "tokens", "load", "the client's output tokens against the engines'",
        measures.token_difference, 0.02, _NEVER, "%",
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
        "hung", "server", "requests without a first token when the run's grace was over",
        measures.hung, 0.01, 0.1, "%",
        "they are in no latency, as failed ones are not: those are of the requests that were answered",
        "see whether the server hangs (tri-serve logs); lower the rate if its queue is longer than grace",
    ),
    Threshold(
        "usage", "server", "answers whose tokens the server did not report",
        measures.unreported, 0.0, 0.1, "%",
        "their events were counted, and one can hold several tokens: tok/s and TPOT are not known",
        "read TTFT and end-to-end times only, or let the server honour stream_options.include_usage",
    ),
    Threshold(
        "engine-restarts", "server", "engines that began anew while the load ran",
        lambda evidence, figures: measures.number(evidence.engine_restarts), 0.0, 0.0, "",
        "for a while the fleet was smaller than it is said to be",
        "read the engine's log (tri-serve logs), and run again",
    ),
)  # fmt: skip
"""In the order in which a report names them."""
