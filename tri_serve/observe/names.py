"""The one catalogue of metric names: nothing else in tri-serve names a metric in text.

Names follow https://prometheus.io/docs/practices/naming/: base units, ``_total`` on counters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name as served (counters without their ``_total``), its labels, and what it means."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> str:
        """The name in front of a counter's or a gauge's samples."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


# From a cached single token on a GPU to a long answer on a CPU; vLLM's own latency buckets lie inside.
LATENCY_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip

REQUESTS = Metric(
    "tri_gateway_requests", "counter", "Requests answered, by route and HTTP status.", ("route", "status")
)
REQUEST_SECONDS = Metric(
    "tri_gateway_request_duration_seconds",
    "histogram",
    "Seconds from the end of a request to the last byte of its answer.",
    ("route",),
    LATENCY_BUCKETS,
)
FIRST_EVENT_SECONDS = Metric(
    "tri_gateway_first_event_seconds",
    "histogram",
    "Seconds from the end of a streaming request to its first event on the way to the client.",
    ("route",),
    LATENCY_BUCKETS,
)
EVENTS = Metric("tri_gateway_stream_events", "counter", "Server-sent events relayed to clients.")
STREAM_FAILURES = Metric(
    "tri_gateway_stream_failures",
    "counter",
    "Streams that failed after their first byte and were ended by an error event, by reason.",
    ("reason",),
)
ENGINE_ERROR_EVENTS = Metric(
    "tri_gateway_engine_error_events", "counter", "Error events that engines sent inside a 200 stream."
)
RETRIES = Metric(
    "tri_gateway_retries",
    "counter",
    "Requests sent to an engine again before anything was answered.",
    ("reason",),
)
ENGINE_FAILURES = Metric(
    "tri_gateway_engine_failures", "counter", "Failed exchanges with an engine.", ("replica", "reason")
)
CLIENT_DISCONNECTS = Metric(
    "tri_gateway_client_disconnects",
    "counter",
    "Clients that left before their answer was complete.",
    ("phase",),
)
REFUSALS = Metric(
    "tri_gateway_refusals", "counter", "Requests refused before an engine was asked, by reason.", ("reason",)
)
HOLDS = Metric(
    "tri_gateway_holds", "counter", "Times that a request was held because no replica was ready for it."
)
HOLD_SECONDS = Metric(
    "tri_gateway_hold_seconds",
    "histogram",
    "Seconds for which requests were held until a replica was ready (sent), their time was over (refused) or their "
    "client was gone (left).",
    ("outcome",),
    LATENCY_BUCKETS,
)
CONNECTIONS = Metric("tri_gateway_client_connections", "gauge", "Open client connections.")
IN_FLIGHT = Metric(
    "tri_gateway_requests_in_flight", "gauge", "Requests being served, by replica.", ("replica",)
)
ENGINE_CONNECTIONS = Metric(
    "tri_gateway_engine_connects", "counter", "Connections opened to engines.", ("replica",)
)
REPLICA_READY = Metric(
    "tri_gateway_replica_ready",
    "gauge",
    "1 if the replica may be sent requests: healthy, and not draining.",
    ("replica",),
)
REPLICA_RUNNING = Metric(
    "tri_gateway_replica_running",
    "gauge",
    "Requests that the engine itself says it runs, whoever sent them; absent if it does not say.",
    ("replica",),
)
REPLICA_WAITING = Metric(
    "tri_gateway_replica_waiting",
    "gauge",
    "Requests that the engine itself says are waiting in it; absent if it does not say.",
    ("replica",),
)
WORKERS = Metric("tri_gateway_workers", "gauge", "Worker processes that are up.")
WORKER_RESTARTS = Metric(
    "tri_gateway_worker_restarts", "counter", "Worker processes replaced after they died."
)
LOOP_LAG = Metric(
    "tri_gateway_loop_lag_seconds",
    "gauge",
    "The longest that a worker's event loop was late in the last report interval; the worst worker.",
)
BUILD = Metric("tri_gateway_build_info", "gauge", "1, with the version as a label.", ("version",))

GATEWAY: tuple[Metric, ...] = (
    REQUESTS,
    REQUEST_SECONDS,
    FIRST_EVENT_SECONDS,
    EVENTS,
    STREAM_FAILURES,
    ENGINE_ERROR_EVENTS,
    RETRIES,
    ENGINE_FAILURES,
    CLIENT_DISCONNECTS,
    REFUSALS,
    HOLDS,
    HOLD_SECONDS,
    CONNECTIONS,
    IN_FLIGHT,
    ENGINE_CONNECTIONS,
    REPLICA_READY,
    REPLICA_RUNNING,
    REPLICA_WAITING,
    WORKERS,
    WORKER_RESTARTS,
    LOOP_LAG,
    BUILD,
)

# What engines say of themselves, as vLLM 0.32 names it (vllm/v1/metrics/loggers.py). An engine with several
# data-parallel ranks says each once a rank, in the label ``engine``.
ENGINE_RUNNING = Metric("vllm:num_requests_running", "gauge", "Requests in the engine's batches.")
ENGINE_WAITING = Metric("vllm:num_requests_waiting", "gauge", "Requests that wait for a place in a batch.")
ENGINE_KV_USAGE = Metric("vllm:kv_cache_usage_perc", "gauge", "Share of the KV cache in use; 1 is all of it.")
ENGINE_TOKENS = Metric("vllm:generation_tokens", "counter", "Tokens generated.")
ENGINE_FINISHED = Metric("vllm:request_success", "counter", "Requests that ended, by reason.")

ENGINE: tuple[Metric, ...] = (
    ENGINE_RUNNING,
    ENGINE_WAITING,
    ENGINE_KV_USAGE,
    ENGINE_TOKENS,
    ENGINE_FINISHED,
)

# Of the same file, what a load test reads besides. A request's queue and prefill times are observed when it has
# ended, its time to first token when that came (vllm/v1/metrics/stats.py).
ENGINE_PROMPT_TOKENS = Metric("vllm:prompt_tokens", "counter", "Tokens of prompts, cached ones included.")
ENGINE_PREFIX_QUERIES = Metric(
    "vllm:prefix_cache_queries", "counter", "Tokens of prompts that were looked up in the prefix cache."
)
ENGINE_PREFIX_HITS = Metric("vllm:prefix_cache_hits", "counter", "Of them, tokens that were in it.")
ENGINE_PREEMPTIONS = Metric(
    "vllm:num_preemptions", "counter", "Running requests that lost their KV cache to others and begin again."
)
ENGINE_FIRST_TOKEN_SECONDS = Metric(
    "vllm:time_to_first_token_seconds",
    "histogram",
    "From a request's arrival in the engine to its first token.",
)
ENGINE_QUEUE_SECONDS = Metric(
    "vllm:request_queue_time_seconds", "histogram", "From queued to first scheduled, by finished requests."
)
ENGINE_PREFILL_SECONDS = Metric(
    "vllm:request_prefill_time_seconds",
    "histogram",
    "From first scheduled to first token, by finished requests.",
)
PROCESS_START = Metric(
    "process_start_time_seconds",
    "gauge",
    "When the process began, by the wall clock (Prometheus' own clients).",
)

ENGINE_UNDER_LOAD: tuple[Metric, ...] = (
    *ENGINE,
    ENGINE_PROMPT_TOKENS,
    ENGINE_PREFIX_QUERIES,
    ENGINE_PREFIX_HITS,
    ENGINE_PREEMPTIONS,
    ENGINE_FIRST_TOKEN_SECONDS,
    ENGINE_QUEUE_SECONDS,
    ENGINE_PREFILL_SECONDS,
    PROCESS_START,
)
GATEWAY_UNDER_LOAD: tuple[Metric, ...] = (
    FIRST_EVENT_SECONDS,
    REQUEST_SECONDS,
    RETRIES,
    ENGINE_FAILURES,
    STREAM_FAILURES,
    ENGINE_ERROR_EVENTS,
    REFUSALS,
    WORKER_RESTARTS,
    LOOP_LAG,
    PROCESS_START,
)
