"""The client of this project and ``vllm bench serve`` (0.32), each asking a running engine the very same.

Prompts come from one file in ShareGPT's form (vLLM's ``custom`` form would need pandas, which an engine does
without), bodies hold the same fields, and both send at the same times: vLLM draws its
arrivals from numpy's legacy generator, seeded by ``--seed`` (vllm/benchmarks/serve.py 0.32, ``main_async`` and
``get_request``), whose numbers are frozen (NEP 19), so that they can be drawn here too.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gevent
import numpy as np

from benchmarks.load import contenders
from benchmarks.load.agreement import FIGURES, KEYS, TOTALS, figures
from benchmarks.load.contenders import ContenderError
from benchmarks.load.paired import SUMMARIES, WRITTEN
from tri_serve.load.records import Outcome, Phase, Record
from tri_serve.load.wire.client import Client
from tri_serve.load.wire.target import parse_target
from tri_serve.load.workload.items import Item, Route

_ROUTE: Route = "/v1/chat/completions"
_GOODPUT_MS = {"ttft": 600_000.0, "tpot": 600_000.0, "e2el": 600_000.0}
"""Bounds that every answer keeps, so that luck is not compared; ``agreement`` compares goodput."""
_MOST_LAG = 0.1
"""Of the mean gap between requests, in the median: a client that sends at other times is off by whole gaps."""
_VLLM = """
import argparse, json, sys, time
import aiohttp
from vllm.benchmarks.serve import add_cli_args, main
written = {}
async def head(session, context, params):
    context.id = params.headers.get("x-request-id")
async def body(session, context, params):
    # Head and body are one write, right after this.
    if getattr(context, "id", None):
        written[context.id] = time.perf_counter()
plain = aiohttp.ClientSession
def traced(*args, **options):
    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(head)
    config.on_request_chunk_sent.append(body)
    return plain(*args, trace_configs=[config], **options)
aiohttp.ClientSession = traced
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
json.dump(written, open("written.json", "w"))
"""
"""vLLM's benchmark as it is, with a listener that notes when aiohttp writes each request."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one client is to do."""

    url: str
    model: str
    prompts: str
    """A JSON file in ShareGPT's form: the first turn of each conversation of two and more."""
    requests: int
    tokens: int
    rate: float
    """Requests a second."""
    burstiness: float
    seed: int
    salt: str
    """vLLM's ``cache_salt``: prompts of another salt are not found in the prefix cache. Empty: none is sent."""

    def extra_body(self) -> dict[str, Any]:
        """What both put into every body beside the messages."""
        return {"temperature": 0.0, **({"cache_salt": self.salt} if self.salt else {})}

    def arrivals(self) -> list[float]:
        """Seconds from the start at which each request is due, as vLLM's ``get_request`` has them: gamma gaps,
        stretched to end at requests ÷ rate."""
        random = np.random.RandomState(self.seed)
        scale = 1 / (self.rate * self.burstiness)
        due = np.cumsum([random.gamma(self.burstiness, scale) for _ in range(self.requests)])
        times: list[float] = (due * (self.requests / self.rate / due[-1])).tolist()
        return times


@dataclass(frozen=True, slots=True)
class Said:
    """What a client reports of its turn, by vLLM's definitions and under its names; all but totals in ms."""

    figures: dict[str, float]
    lags: list[float]
    """How much later than the earliest each request was begun, against when it was due."""
    waits: list[float]
    """From the clock's start until the request was written."""
    cached_tokens: int | None = None
    """Of all prompts, where the server says it."""


def ours(turn: Turn, key: str = "") -> Said:
    """By the client, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "turn.json"
        asked.write_text(json.dumps(asdict(turn)))
        argv = [sys.executable, "-m", "benchmarks.load.engine_clients", str(asked)]
        said = contenders.run_program(argv, None, _seconds(turn), environment={"TRI_SERVE_API_KEY": key})
    records = [
        Record(**{**values, "outcome": Outcome(values["outcome"]), "phase": Phase(values["phase"])})
        for values in json.loads(said)
    ]
    failed = [record for record in records if not record.ok]
    if failed:
        raise ContenderError(
            f"ours: {len(failed)} of {turn.requests} failed: {failed[0].outcome}, {failed[0].detail}"
        )
    due = turn.arrivals()
    # The first one is due that long after the clock has started, with vLLM as here.
    found = figures(records, 1 / due[0], _GOODPUT_MS)
    answers = [contenders.seen(record) for record in records]
    found |= from_written([one.ttft for one in answers], [one.e2e for one in answers])
    lags = late([record.dispatched / 1e9 for record in records], due)
    return Said(found, lags, [0.0] * len(records), sum(record.cached_tokens for record in records))


def vllm(turn: Turn, python: Path, tokenizer: Path, key: str = "") -> Said:
    """By ``vllm bench serve`` of the engine environment whose Python this is."""
    name = f"{turn.salt or 'warm'}-"
    with tempfile.TemporaryDirectory() as folder:
        options = ["--backend", "openai-chat", "--base-url", turn.url, "--endpoint", _ROUTE]
        options += ["--model", turn.model, "--tokenizer", str(tokenizer), "--request-id-prefix", name]
        options += ["--dataset-name", "sharegpt", "--dataset-path", turn.prompts, "--disable-shuffle"]
        options += ["--no-oversample", "--sharegpt-output-len", str(turn.tokens), "--ignore-eos"]
        options += ["--num-prompts", str(turn.requests), "--request-rate", repr(turn.rate)]
        options += ["--burstiness", repr(turn.burstiness), "--seed", str(turn.seed)]
        options += ["--extra-body", json.dumps(turn.extra_body()), "--temperature", "0"]
        options += ["--disable-tqdm", "--ready-check-timeout-sec", "0"]
        options += ["--goodput", *(f"{figure}:{bound:g}" for figure, bound in _GOODPUT_MS.items())]
        options += ["--save-result", "--save-detailed", "--result-dir", folder, "--result-filename", "r.json"]
        options += ["--percentile-metrics", ",".join(FIGURES), "--metric-percentiles", "99"]
        environment = {"OPENAI_API_KEY": key} if key else {}
        # Importing torch alone takes most of a minute on a small machine.
        argv = [str(python), "-c", _VLLM, *options]
        contenders.run_program(argv, None, 240 + _seconds(turn), cwd=folder, environment=environment)
        result = json.loads((Path(folder) / "r.json").read_text())
        written = json.loads((Path(folder) / "written.json").read_text())
    if result["failed"]:
        raise ContenderError(f"vllm bench serve: {result['failed']} of {turn.requests} failed")
    if result["completed"] != turn.requests:
        raise ContenderError(
            f"vllm bench serve left out {turn.requests - result['completed']} prompts: "
            "it takes those of 4 to 1024 tokens"
        )
    starts: list[float] = result["start_times"]
    waits = [1e3 * (written[f"{name}{number}"] - start) for number, start in enumerate(starts)]
    ttfts = [1e3 * ttft - wait for ttft, wait in zip(result["ttfts"], waits, strict=True)]
    ends = [ttft + 1e3 * sum(gaps) for ttft, gaps in zip(ttfts, result["itls"], strict=True)]
    found = {figure: float(result[figure]) for figure in (*TOTALS, *KEYS)}
    lags = late(starts, turn.arrivals())
    if statistics.median(lags) > 1e3 * _MOST_LAG / turn.rate:
        raise ContenderError(
            "vllm bench serve sent at other times than were drawn for it: is it another version than 0.32?"
        )
    return Said(found | from_written(ttfts, ends), lags, waits)


def from_written(ttfts: Sequence[float], ends: Sequence[float]) -> dict[str, float]:
    """Summaries of TTFT and E2EL, both counted from the written request, as vLLM makes them (numpy's)."""
    found = {}
    for name, values in (("ttft", ttfts), ("e2el", ends)):
        summaries = np.mean(values), np.median(values), np.std(values), np.percentile(values, 99)
        for summary, value in zip(SUMMARIES, summaries, strict=True):
            found[f"{summary}_{name}_ms{WRITTEN}"] = float(value)
    return found


def late(starts: Sequence[float], due: Sequence[float]) -> list[float]:
    """Milliseconds that each start is later than the one that was least late; both in seconds, on any clocks."""
    offsets = [start - at for start, at in zip(starts, due, strict=True)]
    return [1e3 * (offset - min(offsets)) for offset in offsets]


def _seconds(turn: Turn) -> float:
    return turn.requests / turn.rate + 600


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file in ShareGPT's form, as vLLM's benchmark takes them."""
    conversations = [entry.get("conversations", ()) for entry in json.loads(path.read_text(encoding="utf-8"))]
    return [turns[0]["value"] for turns in conversations if len(turns) >= 2]


def _items(turn: Turn) -> list[Item]:
    items = []
    for number, prompt in enumerate(read_prompts(Path(turn.prompts))[: turn.requests]):
        # A list of one part, as vLLM's benchmark writes it.
        content = [{"type": "text", "text": prompt}]
        body = {
            "messages": [{"role": "user", "content": content}],
            "max_completion_tokens": turn.tokens,
            "ignore_eos": True,
            **turn.extra_body(),
        }
        items.append(Item(str(number), "agreement", _ROUTE, body, 0, turn.tokens))
    return items


def _ask_all(turn: Turn, key: str) -> list[Record]:
    items = _items(turn)
    records = [Record(index=number, item=item.id) for number, item in enumerate(items)]
    with Client(parse_target(turn.url), turn.model, key or None) as client:
        begun = time.perf_counter()
        asking = []
        for item, record, after in zip(items, records, turn.arrivals(), strict=True):
            record.scheduled = round(1e9 * (begun + after))
            gevent.sleep(max(0.0, begun + after - time.perf_counter()))
            asking.append(gevent.spawn(client.ask, item, record))
        gevent.joinall(asking, raise_error=True)
    return records


def main() -> None:
    """Ask, and print the records: what ``ours`` starts."""
    turn = Turn(**json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps([asdict(record) for record in _ask_all(turn, os.environ.get("TRI_SERVE_API_KEY", ""))]))


if __name__ == "__main__":
    main()
