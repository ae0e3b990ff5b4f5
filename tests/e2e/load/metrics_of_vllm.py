"""Runs in an engine environment: vLLM's own ``calculate_metrics`` over the details of a result file.

argv: the file, as ``vllm bench serve --save-detailed`` writes it. Prints the same keys, as vLLM computes them.
"""

import json
import sys
from pathlib import Path
from typing import Any

from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput
from vllm.benchmarks.serve import calculate_metrics


def main(path: str, goodput: str) -> None:
    document: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    columns = ("errors", "latencies", "output_lens", "ttfts", "itls", "input_lens", "start_times")
    outputs = [
        RequestFuncOutput(
            success=not error,
            error=error,
            latency=latency,
            output_tokens=tokens,
            ttft=ttft,
            itl=itl,
            prompt_len=prompt,
            start_time=start,
        )
        for error, latency, tokens, ttft, itl, prompt, start in zip(
            *(document[column] for column in columns), strict=True
        )
    ]
    metrics, _ = calculate_metrics(
        [], outputs, document["duration"], None, [90.0, 95.0, 99.0], json.loads(goodput)
    )
    found = {
        name: getattr(metrics, name)
        for name in document
        if isinstance(getattr(metrics, name, None), int | float)
    }
    found |= {"total_input_tokens": metrics.total_input, "total_output_tokens": metrics.total_output}
    for name in ("ttft", "tpot", "itl", "e2el"):
        for percent, value in getattr(metrics, f"percentiles_{name}_ms"):
            found[f"p{percent:.0f}_{name}_ms"] = value
    print(json.dumps({name: float(value) for name, value in found.items()}))


main(*sys.argv[1:])
