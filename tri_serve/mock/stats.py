"""What a mock engine has seen: at /mock/stats for tests, and as vLLM's metrics. Never a key's value."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from .timings import LATENCY_BUCKETS, TTFT_BUCKETS, Histogram

_KEPT_ABORTS = 1000


@dataclass(slots=True)
class Stats:
    """Counters of one process."""

    connections: int = 0
    """Open now."""
    connections_total: int = 0
    requests: int = 0
    """Generations asked for."""
    paths: Counter[str] = field(default_factory=Counter)
    """Requests by method and path, whatever became of them."""
    running: int = 0
    max_running: int = 0
    finished: int = 0
    aborted: int = 0
    """Ended by the client's disconnect."""
    aborts: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_KEPT_ABORTS))
    """The last aborts: request id, CLOCK_MONOTONIC time (one clock for all processes), age, writes done."""
    refused: int = 0
    """Requests answered with an error status."""
    prompt_tokens: int = 0
    generation_tokens: int = 0
    iterations: int = 0
    first_token_seconds: Histogram = field(default_factory=lambda: Histogram(TTFT_BUCKETS))
    """Of streams; so are the two below."""
    queue_seconds: Histogram = field(default_factory=lambda: Histogram(LATENCY_BUCKETS))
    prefill_seconds: Histogram = field(default_factory=lambda: Histogram(LATENCY_BUCKETS))
    last_headers: tuple[str, ...] = ()
    """Header names of the last generation request, in order, in lower case."""
    last_authorization: str = "absent"
    """absent, engine-key or other."""
    other_authorizations: int = 0
    """Generation requests that carried an Authorization other than the engine's key."""

    def summary(self) -> dict[str, Any]:
        """For /mock/stats."""
        return {
            "connections": self.connections,
            "connections_total": self.connections_total,
            "requests": self.requests,
            "paths": dict(self.paths),
            "running": self.running,
            "max_running": self.max_running,
            "finished": self.finished,
            "aborted": self.aborted,
            "aborts": list(self.aborts),
            "refused": self.refused,
            "prompt_tokens": self.prompt_tokens,
            "generation_tokens": self.generation_tokens,
            "last_headers": list(self.last_headers),
            "last_authorization": self.last_authorization,
            "other_authorizations": self.other_authorizations,
        }

    def metrics(self, model: str) -> str:
        """The few of vLLM's metrics that a router or a test reads, in Prometheus' text format."""
        label = f'engine="0",model_name="{model}"'
        kv_blocks = 4096
        used = min(1.0, self.running * 16 / kv_blocks)
        histograms = "\n".join(
            line
            for histogram, name, meaning in (
                (
                    self.first_token_seconds,
                    "time_to_first_token",
                    "Histogram of time to first token in seconds.",
                ),
                (
                    self.queue_seconds,
                    "request_queue_time",
                    "Histogram of time spent in WAITING phase for request.",
                ),
                (
                    self.prefill_seconds,
                    "request_prefill_time",
                    "Histogram of time spent in PREFILL phase for request.",
                ),
            )
            for line in histogram.lines(f"vllm:{name}_seconds", label, meaning)
        )
        return f"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{{label}}} {float(self.running)}
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{{label}}} 0.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{{label}}} {used}
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{{{label}}} {float(self.prompt_tokens)}
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{{label}}} {float(self.generation_tokens)}
# HELP vllm:request_success_total Count of successfully processed requests.
# TYPE vllm:request_success_total counter
vllm:request_success_total{{{label},finished_reason="stop"}} {float(self.finished)}
vllm:request_success_total{{{label},finished_reason="abort"}} {float(self.aborted)}
# HELP vllm:iteration_tokens_total Histogram of number of tokens per engine_step.
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{{{label},le="+Inf"}} {float(self.iterations)}
vllm:iteration_tokens_total_count{{{label}}} {float(self.iterations)}
vllm:iteration_tokens_total_sum{{{label}}} {float(self.generation_tokens)}
{histograms}
# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{{block_size="16",cache_dtype="auto",enable_prefix_caching="True",engine="0",\
num_gpu_blocks="{kv_blocks}"}} 1.0
"""
