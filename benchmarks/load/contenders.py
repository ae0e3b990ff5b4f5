"""The client of this project, vLLM's own benchmark and guidellm, each asking one server the same way.

What comes back of each is a list of answers in milliseconds: time to first token, gaps, end to end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent

from benchmarks.load.replay import MODEL
from tri_serve.load.figures import definitions as define
from tri_serve.load.records import Outcome, Phase, Record
from tri_serve.load.wire.client import Client
from tri_serve.load.wire.target import parse_target
from tri_serve.load.workload.items import Item

PROMPT_TOKENS = 16
GOODPUT_MS = {"ttft": 1_000.0, "tpot": 500.0, "e2el": 5_000.0}
"""What vLLM's ``--goodput`` is given: bounds that no answer is near to, so that luck is not compared."""
_VLLM = """
import argparse, sys
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


class ContenderError(Exception):
    """A program did not do its part; the text holds its last words."""


@dataclass(frozen=True, slots=True)
class Load:
    """So many requests of ``tokens`` output tokens, one begun every 1/``rate`` seconds."""

    url: str
    requests: int
    rate: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer as a client measured it, in milliseconds."""

    ttft: float
    gaps: tuple[float, ...]
    e2e: float
    tokens: int


def ours(load: Load, cores: set[int] | None = None) -> tuple[list[Seen], list[Record]]:
    """By the client, in a process of its own; ``*_vllm`` definitions, and the records for other ones."""
    options = [load.url, str(load.requests), str(load.rate), str(load.tokens)]
    said = run_program(
        [sys.executable, "-m", "benchmarks.load.contenders", *options], cores, 60 + _seconds(load)
    )
    records = [
        Record(**{**values, "outcome": Outcome(values["outcome"]), "phase": Phase(values["phase"])})
        for values in json.loads(said)
    ]
    return [seen(record) for record in records], records


def seen(record: Record) -> Seen:
    """A record by vLLM's definitions."""
    first, end = define.ttft_vllm(record), define.e2el_vllm(record)
    if not record.ok or first is None or end is None:
        raise ContenderError(f"an answer was not whole: {record.outcome}, {record.detail}")
    return Seen(
        ttft=first / 1e6,
        gaps=tuple(gap / 1e6 for gap in define.itl_vllm(record)),
        e2e=end / 1e6,
        tokens=define.output_tokens_vllm(record),
    )


def vllm(
    load: Load, python: Path, tokenizer: Path, cores: set[int] | None = None
) -> tuple[list[Seen], dict[str, Any]]:
    """By ``vllm bench serve`` of the engine environment whose Python this is; its own result beside."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--backend", "openai-chat", "--base-url", load.url, "--endpoint", "/v1/chat/completions"]
        options += ["--model", MODEL, "--tokenizer", str(tokenizer), "--dataset-name", "random"]
        options += ["--random-input-len", str(PROMPT_TOKENS), "--random-output-len", str(load.tokens)]
        options += ["--num-prompts", str(load.requests), "--request-rate", str(load.rate)]
        # Steadier than any load that is meant: as good as one every 1/rate seconds, which is what the others do.
        options += [
            "--burstiness",
            "100000",
            "--ignore-eos",
            "--disable-tqdm",
            "--ready-check-timeout-sec",
            "0",
        ]
        options += ["--goodput", *(f"{name}:{bound:g}" for name, bound in GOODPUT_MS.items())]
        options += ["--save-result", "--save-detailed", "--result-dir", folder, "--result-filename", "r.json"]
        options += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,95,99"]
        # Importing torch alone takes most of a minute on a small machine.
        run_program([str(python), "-c", _VLLM, *options], cores, 240 + _seconds(load), cwd=folder)
        result = json.loads((Path(folder) / "r.json").read_text())
    if result["failed"] or result["completed"] != load.requests:
        raise ContenderError(f"vllm bench serve: {result['failed']} of {load.requests} failed")
    answers = zip(result["ttfts"], result["itls"], result["output_lens"], strict=True)
    return [
        Seen(1e3 * ttft, tuple(1e3 * gap for gap in gaps), 1e3 * (ttft + sum(gaps)), tokens)
        for ttft, gaps, tokens in answers
    ], result


def guidellm(load: Load, program: Path, tokenizer: Path, cores: set[int] | None = None) -> list[Seen]:
    """By guidellm. It keeps the first and the last token's time and their number, so that each answer has one gap:
    the mean of its own."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "r.json"
        options = ["run", "--backend", f"kind=openai_http,target={load.url},model={MODEL}"]
        options += ["--profile", f"kind=constant,rate={load.rate}"]
        options += ["--constraint", f"kind=max_requests,count={load.requests}"]
        options += ["--tokenizer", f"kind=huggingface_auto,model={tokenizer}"]
        options += [
            "--data",
            f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={load.tokens}",
        ]
        options += ["--output", f"kind=json,path={output}", "--disable-console"]
        run_program([str(program), *options], cores, 240 + _seconds(load), cwd=folder)
        result = json.loads(output.read_text())
    return [_of_guidellm(entry) for entry in result["benchmarks"][0]["requests"]["successful"]]


def _of_guidellm(entry: dict[str, Any]) -> Seen:
    ttft, gap, tokens = (
        entry["time_to_first_token_ms"],
        entry["inter_token_latency_ms"],
        entry["output_tokens"],
    )
    return Seen(ttft=ttft, gaps=(gap,), e2e=ttft + gap * (tokens - 1), tokens=tokens)


def _seconds(load: Load) -> float:
    return load.requests / load.rate + 120


def run_program(
    argv: Sequence[str],
    cores: set[int] | None,
    seconds: float,
    cwd: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What a program prints; it may run on ``cores`` for so many seconds, with ``environment`` on top of this one's
    without OPENAI_API_KEY. Raises ContenderError, TimeoutExpired."""
    # Nothing is to be looked up outside: model and tokenizer are on the disk.
    inherited = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    every = {
        **inherited,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "GUIDELLM__MAX_WORKER_PROCESSES": "1",
        **(environment or {}),
    }
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=every, cwd=cwd
    ) as process:
        if cores:
            os.sched_setaffinity(process.pid, cores)
        try:
            said, complained = process.communicate(timeout=seconds)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        last = "\n".join((said + complained).splitlines()[-15:])
        raise ContenderError(f"{Path(argv[0]).name} ended with {process.returncode}:\n{last}")
    return said


def _ask_all(load: Load) -> list[Record]:
    records = [Record(index=n, item="x") for n in range(load.requests)]
    body = {"messages": [{"role": "user", "content": "x " * PROMPT_TOKENS}], "max_tokens": load.tokens}
    item = Item("x", "g", "/v1/chat/completions", body, PROMPT_TOKENS, load.tokens)
    with Client(parse_target(load.url), MODEL) as client:
        begun = time.perf_counter()
        asking = []
        for number, record in enumerate(records, 1):
            # vLLM, too, waits for the gap ahead of its first request when its clock has begun.
            due = begun + number / load.rate
            record.scheduled = round(1e9 * due)
            gevent.sleep(max(0.0, due - time.perf_counter()))
            asking.append(gevent.spawn(client.ask, item, record))
        gevent.joinall(asking, raise_error=True)
    return records


def main() -> None:
    """Ask, and print the records: what ``ours`` starts."""
    from dataclasses import asdict

    url, requests, rate, tokens = sys.argv[1:]
    print(json.dumps([asdict(r) for r in _ask_all(Load(url, int(requests), float(rate), int(tokens)))]))


if __name__ == "__main__":
    main()
