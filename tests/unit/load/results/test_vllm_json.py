"""The keys and the numbers of vLLM's own result file."""

from __future__ import annotations

import json

import numpy as np
import orjson
import pytest

from tri_serve.errors import UsageError
from tri_serve.load.figures.collector import Collector, Window
from tri_serve.load.figures.summary import summarise
from tri_serve.load.records import Outcome, Phase
from tri_serve.load.results.record_file import read_records
from tri_serve.load.results.vllm_json import vllm_json
from tri_serve.spec.slo import Slo

# vllm/benchmarks/serve.py of vLLM 0.32: what --save-result writes, and what --save-detailed adds.
PLAIN = (
    "date", "endpoint_type", "backend", "label",
    "model_id", "tokenizer_id", "num_prompts", "request_rate",
    "burstiness", "max_concurrency", "duration", "completed",
    "failed", "total_input_tokens", "total_output_tokens", "request_throughput",
    "request_goodput", "output_throughput", "total_token_throughput", "max_output_tokens_per_s",
    "max_concurrent_requests", "rtfx", "mean_ttft_ms", "median_ttft_ms",
    "std_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "median_tpot_ms",
    "std_tpot_ms", "p99_tpot_ms", "mean_itl_ms", "median_itl_ms",
    "std_itl_ms", "p99_itl_ms", "mean_e2el_ms", "median_e2el_ms",
    "std_e2el_ms", "p99_e2el_ms",
)  # fmt: skip
DETAILED = (
    "input_lens", "output_lens", "ttfts", "itls",
    "latencies", "start_times", "queue_times", "generated_texts",
    "errors",
)  # fmt: skip
SECOND = 1_000_000_000
START = 1_000 * SECOND


def test_it_has_every_key_that_vllm_writes(make_result, make_record):
    document = vllm_json(make_result())
    assert set(PLAIN) <= set(document)
    assert set(document) - set(PLAIN) == {
        f"p{percent}_{name}_ms" for percent in (90, 95) for name in ("ttft", "tpot", "itl", "e2el")
    }
    assert set(vllm_json(make_result(), [make_record()])) == set(document) | set(DETAILED)
    json.dumps(document, allow_nan=False)


def test_numbers_are_what_vllms_formulas_make_of_the_details(make_result, make_record):
    chance = np.random.default_rng(2)
    records = [
        make_record(
            index,
            due=float(due),
            role=float(chance.uniform(5, 20)),
            ttft=float(chance.uniform(30, 90)),
            gaps=chance.uniform(1, 30, int(chance.integers(0, 30))).tolist(),
            phase=Phase.WARM_UP if due < 0 else Phase.WINDOW,
            outcome=outcome,
        )
        for index, (due, outcome) in enumerate(
            zip(
                chance.uniform(-1, 5, 80),
                [Outcome.OK, Outcome.OK, Outcome.CUT, Outcome.UNSENT] * 20,
                strict=True,
            )
        )
    ]
    collector = Collector(Window(START, START + 5 * SECOND), Slo(ttft=0.015, tpot=0.02))
    for record in records:
        collector.add(record)
    result = make_result().model_copy(update={"figures": summarise(collector)})
    document = vllm_json(result, records)
    good = [number for number, error in enumerate(document["errors"]) if not error]
    assert len(good) == document["completed"] == sum(it.ok and it.phase is Phase.WINDOW for it in records)
    assert len(document["errors"]) == document["num_prompts"]
    ttfts, latencies = (np.array(document[name])[good] for name in ("ttfts", "latencies"))
    lengths = np.array(document["output_lens"])[good]
    tpots = ((latencies - ttfts) / np.maximum(lengths - 1, 1))[lengths > 1]
    itls = np.concatenate([document["itls"][number] for number in good])
    for name, values in (("ttft", ttfts), ("tpot", tpots), ("itl", itls), ("e2el", latencies)):
        assert document[f"mean_{name}_ms"] == pytest.approx(values.mean() * 1000)
        assert document[f"std_{name}_ms"] == pytest.approx(values.std() * 1000)
        assert document[f"p99_{name}_ms"] == pytest.approx(np.percentile(values, 99) * 1000)
    every = np.where(lengths > 1, (latencies - ttfts) / np.maximum(lengths - 1, 1), 0)
    kept = ((ttfts <= 0.015) & (every <= 0.02)).sum()
    assert document["request_goodput"] == pytest.approx(kept / document["duration"])
    assert document["total_output_tokens"] == lengths.sum()
    assert document["output_throughput"] == pytest.approx(lengths.sum() / document["duration"])


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        ({"kind": "poisson", "rate": 3.0}, (3.0, 1.0, None)),
        ({"kind": "constant", "rate": 3.0}, (3.0, "inf", None)),
        ({"kind": "gamma", "rate": 3.0, "burstiness": 0.5}, (3.0, 0.5, None)),
        ({"kind": "closed", "users": 16}, ("inf", 1.0, 16)),
        ({"kind": "ramp", "from_rate": 0.0, "to_rate": 9.0}, (9.0, 1.0, None)),
    ],
)
def test_arrivals_are_said_in_vllms_words(make_result, arrivals, expected):
    result = make_result()
    scenario = result.scenario.model_copy(update={"resolved": {"arrivals": arrivals}})
    document = vllm_json(result.model_copy(update={"scenario": scenario}))
    assert (document["request_rate"], document["burstiness"], document["max_concurrency"]) == expected


@pytest.mark.parametrize(
    ("routes", "backend"),
    [(["completions"], "openai"), (["chat", "completions"], "openai-chat"), ([], "openai-chat")],
)
def test_the_backend_is_named_by_the_route(make_result, routes, backend):
    result = make_result()
    parts = {"workload": {"parts": [{"route": route} for route in routes]}}
    scenario = result.scenario.model_copy(update={"resolved": parts})
    assert vllm_json(result.model_copy(update={"scenario": scenario}))["backend"] == backend


def test_a_run_without_an_answer_has_zeros_as_vllm_has_them(make_result):
    document = vllm_json(make_result(failing=1.0))
    assert (document["completed"], document["mean_ttft_ms"], document["p99_itl_ms"]) == (0, 0, 0)


def test_records_are_read_back_up_to_a_line_that_was_cut(tmp_path, make_record):
    records = [make_record(index) for index in range(3)]
    lines = [b'{"format":1}', *(orjson.dumps(record) for record in records)]
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n" + lines[1][:40])
    assert list(read_records(path)) == records


@pytest.mark.parametrize("content", [b"no records", b"{}\n{}\n", b'{}\n{"outcome":"ok"}\n', b"{}\nnothing\n"])
def test_a_file_of_something_else_is_told(tmp_path, content):
    path = tmp_path / "other.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"other\.jsonl"):
        list(read_records(path))
