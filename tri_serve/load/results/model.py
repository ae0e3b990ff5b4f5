"""The result of one run, as it is written and published: docs/reference/load-result.schema.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from tri_serve.load.figures.model import Figures
from tri_serve.load.verdict import Evidence, Verdict

FORMAT: Final = 1
"""Raised when an old reader would misread a new file."""


class ResultModel(BaseModel):
    """Frozen, and strict about what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ScenarioUsed(ResultModel):
    """What was asked to be run."""

    name: str
    """Of the shipped scenario, or the file's name."""
    text: str
    """The file, verbatim."""
    overrides: Mapping[str, str] = {}
    """What the command line changed, by key."""
    resolved: Mapping[str, Any] = {}
    """The scenario as it was run: the models of scenario/models.py as JSON."""
    hash: str
    """SHA-256 of ``resolved``."""


class WorkloadUsed(ResultModel):
    """What the requests were."""

    hash: str
    """Two runs with the same one asked the same things."""
    tokenizer: str = ""
    """Where token counts are from."""
    remarks: tuple[str, ...] = ()
    """What was left out or changed, with counts."""


class TargetUsed(ResultModel):
    """Where the requests went. No key, no header, no user name is ever kept."""

    url: str
    """Scheme, host, port and base path."""
    model: str
    release: str | None = None
    """Of tri-serve, if its gateway was the target."""
    replicas: int | None = None


class Machine(ResultModel):
    """What the client ran on."""

    cpu: str = ""
    cores: int | None = None
    """That this process may use."""
    memory_bytes: int | None = None
    kernel: str = ""
    python: str = ""
    ceiling_requests_per_second: float | None = None
    """Measured by ``tri-serve load selftest``; none if it never ran here."""
    ceiling_events_per_second: float | None = None


class TtftPart(ResultModel):
    """One stretch of the way to the first token."""

    name: Literal["client", "gateway", "queue", "prefill", "rest"]
    mean_ms: float
    source: str
    """Which figure or metric it is from."""


class EngineSide(ResultModel):
    """What one engine says of the window."""

    name: str
    """Of its replica."""
    output_tokens: int | None = None
    requests: int | None = None
    """That ended, for whatever reason."""
    ttft_mean_ms: float | None = None
    """From a request's arrival in the engine to its first token."""
    ttft_p99_ms: float | None = None
    """Evenly within a bucket of its histogram."""
    queue_mean_ms: float | None = None
    prefill_mean_ms: float | None = None
    kv_use_max: float | None = None
    """Share of the KV cache in use, 0 to 1."""
    prefix_hit_rate: float | None = None
    """Prompt tokens that were found in the prefix cache, of those looked up."""
    preemptions: int | None = None
    running_max: int | None = None
    waiting_max: int | None = None
    restarts: int = 0
    """How often it began anew while the load ran."""


class GatewaySide(ResultModel):
    """What the gateway says of the window."""

    first_event_mean_ms: float | None = None
    """From the end of a request to its first event on the way to the client."""
    first_event_p99_ms: float | None = None
    retries: int | None = None
    """Requests that were sent to an engine again."""
    engine_failures: int | None = None
    stream_failures: int | None = None
    """Streams that failed after their first byte."""
    refusals: int | None = None
    loop_lag_max_ms: float | None = None
    """The longest that an event loop of it was late, of what was seen."""


class ServerSide(ResultModel):
    """What gateway and engines say of the same window."""

    sources: tuple[str, ...] = ()
    """What was read: ``gateway``, ``engine replica-0``, …"""
    missing: tuple[str, ...] = ()
    """What could not be read, and why."""
    ttft_split: tuple[TtftPart, ...] = ()
    """Parts that add up to the client's mean TTFT, in the order of the way."""
    kv_use_mean: float | None = None
    """Share of the KV cache in use, 0 to 1."""
    kv_use_max: float | None = None
    prefix_hit_rate: float | None = None
    preemptions: int | None = None
    running_max: int | None = None
    """Most requests that the engines ran at once."""
    waiting_max: int | None = None
    client_tokens: int | None = None
    """Output tokens by the clients' records, in the same time as ``server_tokens``."""
    server_tokens: int | None = None
    restarts: tuple[str, ...] = ()
    """Sources whose counters began anew: engines that were restarted."""
    gateway: GatewaySide | None = None
    engines: tuple[EngineSide, ...] = ()
    remarks: tuple[str, ...] = ()


class RunResult(ResultModel):
    """One run."""

    format: Literal[1] = FORMAT
    run: str
    """Its name: also that of its folder."""
    started_at: str
    """ISO 8601 with offset: when the window began, by the wall clock."""
    seconds: float
    """From the first request to the end, warm-up and grace included."""
    complete: bool
    """Whether it ran to its end; else the figures are of what was done until then."""
    stopped_because: str = ""
    """Why it is not complete: ``Ctrl-C``, …"""
    processes: int
    """Processes of the client that sent requests."""
    scenario: ScenarioUsed
    workload: WorkloadUsed
    target: TargetUsed
    machine: Machine
    versions: Mapping[str, str]
    """tri-serve, locust, gevent, python; the engine's where it says so."""
    figures: Figures
    evidence: Evidence
    verdict: Verdict
    server_side: ServerSide | None = None
    """None where nothing could be read."""
    histograms: Mapping[str, str] = {}
    """Latencies by name as HDR histograms (V2, compressed, base64; unit 100 ns): for charts and comparisons."""
    records: tuple[str, ...] = ()
    """Files with a line for each request, beside this one."""
