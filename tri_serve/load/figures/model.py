"""What a run's records add up to, typed. Latencies are in milliseconds, rates a second, shares from 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict


class FiguresModel(BaseModel):
    """Frozen, and strict about what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Distribution(FiguresModel):
    """One figure over many requests or events, in ms."""

    count: int
    """Samples."""
    mean: float
    std: float
    """Standard deviation of the samples themselves (numpy's default, as vLLM prints it)."""
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    exact: bool
    """Percentiles of the samples (linear, as numpy and vLLM); else of an HDR histogram, true to 0.1 %."""


class Goodput(FiguresModel):
    """Requests that kept every promise, of all that were scheduled."""

    good: int
    """Answered whole, and within the SLO counted from when they were due. Without an SLO: answered whole."""
    of: int
    """Scheduled in the window, less those cancelled at the end of the run that might still have become good: one
    that had no token after the grace, or had broken a promise by then, is in it. So are failed and unsent ones."""
    share: float | None
    """``good`` ÷ ``of``; none without requests."""
    per_second: float | None
    """``good`` ÷ seconds of the window."""


class Throughput(FiguresModel):
    """A rate over a time."""

    seconds: float
    requests_per_second: float
    """Whole answers."""
    output_tokens_per_second: float
    input_tokens_per_second: float


class TokenCounts(FiguresModel):
    """Tokens that were asked for against what the server's ``usage`` says, over answered requests."""

    requests: int
    """That have both numbers."""
    intended: int
    reported: int
    exact: int
    """Requests in which the two agree."""
    largest_difference: int
    """In tokens, of one request."""


class GroupFigures(FiguresModel):
    """One part of the workload."""

    scheduled: int
    outcomes: Mapping[str, int]
    goodput: Goodput
    output_tokens: int
    figures: Mapping[str, Distribution]
    """By name: ``ttft``, ``ttft_sched``, ``tpot``, ``e2e``."""


class VllmFigures(FiguresModel):
    """What ``vllm bench serve`` 0.32 would have said of the window's requests, by its definitions.

    Source: vllm/benchmarks/serve.py (``calculate_metrics``) and lib/endpoint_request_func.py of vLLM 0.32.
    """

    duration: float
    """Seconds from the window's begin to the last completion of its requests: vLLM's clock, too, starts before the
    gap ahead of the first one."""
    completed: int
    failed: int
    total_input_tokens: int
    total_output_tokens: int
    request_throughput: float
    request_goodput: float | None
    """Good requests a second of ``duration``; none without an SLO."""
    output_throughput: float
    total_token_throughput: float
    max_output_tokens_per_s: float
    """Most events within one second from the first start; vLLM counts an event as a token here."""
    max_concurrent_requests: int
    """Most requests that ran at any time within one such second."""
    ttft: Distribution
    tpot: Distribution
    itl: Distribution
    e2el: Distribution


class Slot(FiguresModel):
    """What happened within one slot of time (a second in runs of up to half an hour)."""

    at: float
    """Seconds from the window's begin to the slot's; negative in the warm-up."""
    scheduled: int
    sent: int
    completed: int
    failed: int
    unsent: int
    output_tokens: int
    """By the time of their events."""
    open: float
    """Requests that were running, on average."""
    ttft_p50: float | None
    """Of requests due in the slot, from when they were due, in ms, true to 5 %; none without one."""
    ttft_p99: float | None


class Figures(FiguresModel):
    """Everything that is said of one run. Requests counted are those scheduled in the window."""

    window_seconds: float
    slot_seconds: float
    scheduled: int
    outcomes: Mapping[str, int]
    """By name of the outcome, all of them, zeros included."""
    failed: int
    """Sent and not answered as they must be."""
    failure_share: float | None
    """``failed`` ÷ (ok + failed)."""
    failure_details: Mapping[str, int]
    """What was wrong, with how often: the most frequent ones."""
    details_left_out: int
    """Failures whose detail is none of these."""
    scheduled_rate: float
    """Requests that were due, a second."""
    sent_rate: float
    """Of these, how many were sent."""
    goodput: Goodput
    steady: Throughput
    """In the window, credited by the time of each token's event, whoever's request it was of."""
    whole: Throughput
    """Answered requests from the first dispatch to the last completion, warm-up and cool-down included."""
    latencies: Mapping[str, Distribution]
    """By name (figures/definitions.py): ``ttft``, ``ttft_sched``, ``tpot``, ``e2e``, ``e2e_sched``, ``icl``,
    ``itl``, ``max_gap``; what nothing was measured of is not in it."""
    vllm: VllmFigures
    input_tokens: TokenCounts
    output_tokens: TokenCounts
    tokens_an_event: float | None = None
    """Tokens by ``usage`` ÷ tokens counted in events, over answers that have both; where it is not 1, ``itl`` is of
    events and not of tokens."""
    cached_tokens: int
    with_replacements: int
    """Answers with U+FFFD in their text, under ``ignore_eos``, where that is not judged."""
    groups: Mapping[str, GroupFigures]
    slots: tuple[Slot, ...]
    reused_connections: int
    """Of the requests that were sent."""
    replicas: Mapping[str, int]
    """Requests by the replica that answered, where heads say so."""
