"""A result as ``vllm bench serve --save-result`` of vLLM 0.32 writes it: for scripts and dashboards that read that.

Source of the keys: vllm/benchmarks/serve.py, ``main_async`` and ``benchmark``. Only ``*_vllm`` figures go into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from tri_serve.load.figures import definitions as define
from tri_serve.load.figures.model import Distribution
from tri_serve.load.records import Outcome, Phase, Record
from tri_serve.load.results.model import RunResult

_NS = 1_000_000_000
_NOT_SENT_BY_VLLM = frozenset({Outcome.UNSENT, Outcome.CANCELLED})
"""vLLM sends everything and waits for all of it, so that it has no such requests."""


def vllm_json(
    result: RunResult, records: Iterable[Record] | None = None, *, label: str | None = None
) -> dict[str, Any]:
    """The object that vLLM would have written.

    ``records``: as ``--save-detailed`` does, with one entry for each request of the window. ``generated_texts`` are
    empty: no text is kept. Without a window's answers all latencies are 0, as vLLM has them.
    """
    figures = result.figures.vllm
    document: dict[str, Any] = {
        "date": datetime.fromisoformat(result.started_at).strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": _backend(result.scenario.resolved),
        "backend": _backend(result.scenario.resolved),
        "label": label,
        "model_id": result.target.model,
        "tokenizer_id": result.workload.tokenizer or None,
        "num_prompts": figures.completed + figures.failed,
        **_traffic(result.scenario.resolved),
        "duration": figures.duration,
        "completed": figures.completed,
        "failed": figures.failed,
        "total_input_tokens": figures.total_input_tokens,
        "total_output_tokens": figures.total_output_tokens,
        "request_throughput": figures.request_throughput,
        "request_goodput": figures.request_goodput,
        "output_throughput": figures.output_throughput,
        "total_token_throughput": figures.total_token_throughput,
    }
    if records is not None:
        document |= _detailed(records)
    document |= {
        "max_output_tokens_per_s": figures.max_output_tokens_per_s,
        "max_concurrent_requests": figures.max_concurrent_requests,
        "rtfx": 0.0,
    }
    for name in ("ttft", "tpot", "itl", "e2el"):
        document |= _latency(name, getattr(figures, name))
    return document


def _latency(name: str, it: Distribution) -> dict[str, float]:
    """vLLM's own keys, with its default percentile (99) and further ones as ``--metric-percentiles`` adds them."""
    return {
        f"mean_{name}_ms": it.mean,
        f"median_{name}_ms": it.p50,
        f"std_{name}_ms": it.std,
        f"p90_{name}_ms": it.p90,
        f"p95_{name}_ms": it.p95,
        f"p99_{name}_ms": it.p99,
    }


def _traffic(scenario: Mapping[str, Any]) -> dict[str, Any]:
    """Arrivals in vLLM's words; a load whose rate changes has no single one there: its highest."""
    arrivals = scenario.get("arrivals", {})
    rates = [arrivals.get(key) for key in ("rate", "to_rate", "spike_rate")]
    rates += [step.get("rate") for step in arrivals.get("steps", ())]
    known = [rate for rate in rates if rate is not None]
    # numpy's gamma with infinite shape is not what --burstiness inf does, but evenly spaced requests are.
    steadiness = {"constant": "inf", "gamma": arrivals.get("burstiness", 1.0)}
    return {
        "request_rate": max(known) if known else "inf",
        "burstiness": steadiness.get(arrivals.get("kind"), 1.0),
        "max_concurrency": arrivals.get("users"),
    }


def _backend(scenario: Mapping[str, Any]) -> str:
    parts = scenario.get("workload", {}).get("parts", ())
    routes = {part.get("route", "chat") for part in parts}
    return "openai" if routes == {"completions"} else "openai-chat"


def _detailed(records: Iterable[Record]) -> dict[str, list[Any]]:
    names = (
        "input_lens",
        "output_lens",
        "ttfts",
        "itls",
        "latencies",
        "start_times",
        "queue_times",
        "generated_texts",
        "errors",
    )
    lists: dict[str, list[Any]] = {name: [] for name in names}
    for record in sorted(records, key=lambda it: it.index):
        if record.phase is not Phase.WINDOW or record.outcome in _NOT_SENT_BY_VLLM:
            continue
        for name, value in zip(names, _one(record), strict=True):
            lists[name].append(value)
    return lists


def _one(record: Record) -> tuple[Any, ...]:
    answered = define.answered_vllm(record)
    queued = (record.sent - record.dispatched) / _NS if record.sent and record.dispatched else 0.0
    return (
        record.input_tokens or record.intended_input_tokens,
        define.output_tokens_vllm(record) if answered else 0,
        (define.ttft_vllm(record) or 0) / _NS,
        [gap / _NS for gap in define.itl_vllm(record)],
        (define.e2el_vllm(record) or 0) / _NS if answered else 0.0,
        record.sent / _NS,
        queued,
        "",
        "" if answered else record.detail or record.outcome.value,
    )
