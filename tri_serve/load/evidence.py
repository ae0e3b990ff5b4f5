"""What was measured about the measuring itself: the material that a verdict is made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class EvidenceModel(BaseModel):
    """Frozen, and strict about what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Evidence(EvidenceModel):
    """What was measured about the measuring itself. None: not measured, which the verdict says."""

    open_loop: bool | None = None
    """Whether requests were due at set times; a closed loop cannot fall behind a rate."""
    steady_load: bool | None = None
    """Whether the load was meant to be the same over the whole window."""
    stopped_early: bool | None = None
    window_seconds: float | None = None
    # The client.
    dispatch_lag_p50_ms: float | None = None
    """Open loop: how late requests were begun with."""
    dispatch_lag_p99_ms: float | None = None
    dispatch_lag_max_ms: float | None = None
    loop_lag_p99_ms: float | None = None
    """How late the event loop of a process wakes, in the worst process: as late are its stamps."""
    loop_lag_max_ms: float | None = None
    cpu_shares: tuple[float, ...] | None = None
    """Share of one core that each process of the client used, 0 to 1, in order of processes."""
    cpu_wait_share: float | None = None
    """Share of the window in which the worst client process was ready and had no CPU. It is not judged: it says
    whether lag is the client's own doing or that of what else runs on its machine."""
    real_time: bool | None = None
    """Whether every process of the client had the kernel's real-time class, so that other programs on its cores
    could not hold it up."""
    throttled_seconds: float | None = None
    """Time that the cgroup held the client back in the window."""
    gc_pause_max_ms: float | None = None
    clock_step_ms: float | None = None
    """Largest jump of the wall clock against the monotonic one."""
    processes_lost: int | None = None
    """Processes of the client that did not report at the end."""
    records_lost: int | None = None
    """Requests whose record could not be written (disk full); the figures have them."""
    # The load.
    pauses_after_failures: int | None = None
    """Closed loop: how often a user waited, 0.1 to 1 s, since its request had failed."""
    target_rate: float | None = None
    """Open loop: requests a second that were due in the window."""
    achieved_rate: float | None = None
    """Of them, how many were sent."""
    unsent: int | None = None
    scheduled: int | None = None
    in_flight_mean: float | None = None
    """Requests that were open in the window, on average (N)."""
    littles_law_mean: float | None = None
    """Completions a second times mean time of these (X·R); in a steady window the same as N."""
    warm_up_seconds: float | None = None
    stagger_seconds: float | None = None
    """Closed loop: over how long its users began."""
    users: int | None = None
    """Closed loop without pauses: so many requests are meant to be open at any time."""
    ttft_growth: float | None = None
    """Mean TTFT of the window's second half ÷ its first half's; none where the load is meant to change."""
    # The server.
    failure_share: float | None = None
    answered: int | None = None
    without_usage: int | None = None
    """Answers whose tokens the server did not report: their events were counted."""
    hung: int | None = None
    """Requests of the window that had no first token when the run's grace was over."""
    ttft_client_ms: float | None = None
    """Mean TTFT in the window, by the client."""
    ttft_server_ms: float | None = None
    """The same, by the engines' histogram."""
    ttft_drift_ms: float | None = None
    """How much client minus server grew from the first half of the window to the second."""
    tokens_client: int | None = None
    tokens_server: int | None = None
    """Generated in the same time, by the engines' counters."""
    engine_restarts: int | None = None
