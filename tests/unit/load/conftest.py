"""Requests and runs made up to known times, without a client or a server."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tri_serve.load.figures.collector import Collector, Window
from tri_serve.load.figures.evidence import evidence_of
from tri_serve.load.figures.summary import histograms, summarise
from tri_serve.load.records import Outcome, Phase, Record
from tri_serve.load.results.model import (
    Machine,
    RunResult,
    ScenarioUsed,
    ServerSide,
    TargetUsed,
    TtftPart,
    WorkloadUsed,
)
from tri_serve.load.verdict import judge_run
from tri_serve.spec.slo import Slo

MS = 1_000_000
SECOND = 1_000 * MS
START = 1_000 * SECOND
"""Of the window, on the records' clock."""

MakeRecord = Callable[..., Record]
MakeResult = Callable[..., RunResult]


def make_record(
    index: int = 0,
    *,
    due: float = 0.0,
    lag: float = 0.0,
    role: float | None = None,
    ttft: float = 100.0,
    gaps: Iterable[float] = (10.0,) * 9,
    tokens: Iterable[int] | None = None,
    outcome: Outcome = Outcome.OK,
    phase: Phase = Phase.WINDOW,
    usage_after: float = 1.0,
    **other: Any,
) -> Record:
    """A streamed answer: ``due`` in s from the window's start, the rest in ms. ``role``: an event without text."""
    scheduled = START + round(due * SECOND)
    sent = scheduled + round(lag * MS)
    record = Record(
        index, f"item-{index}", outcome=outcome, phase=phase, scheduled=scheduled, chat=role is not None
    )
    if outcome is Outcome.UNSENT:
        return record
    record.dispatched = record.sent = sent
    times, bears = ([sent + round(role * MS)], [0]) if role is not None else ([], [])
    at = sent + round(ttft * MS)
    times.append(at)
    for gap in gaps:
        at += round(gap * MS)
        times.append(at)
    bears += list(tokens) if tokens is not None else [1] * (len(times) - len(bears))
    record.event_times, record.event_tokens = times, bears
    record.head = record.first_choice = times[0]
    record.first_token = sent + round(ttft * MS)
    record.last_choice = times[-1]
    record.last = record.done = times[-1] + round(usage_after * MS)
    record.status, record.usage_reported, record.finish_reason = 200, True, "length"
    record.output_tokens = record.intended_output_tokens = sum(bears)
    record.input_tokens = record.intended_input_tokens = 200
    for name, value in other.items():
        setattr(record, name, value)
    return record


def make_result(
    run: str = "made",
    *,
    rate: float = 4.0,
    seconds: float = 60.0,
    seed: int = 1,
    slower: float = 1.0,
    failing: float = 0.0,
    slo: Slo | None = None,
    complete: bool = True,
    processes: int = 2,
) -> RunResult:
    """A run at ``rate``, with TTFTs around 120 ms × ``slower`` and TPOTs around 18 ms × ``slower``."""
    chance = random.Random(seed)
    slo = slo or Slo(ttft=0.5, tpot=0.05)
    window = Window(START, START + round(seconds * SECOND), START - 5 * SECOND)
    collectors = [Collector(window, slo) for _ in range(processes)]
    for index in range(round(rate * (seconds + 5))):
        due = index / rate - 5
        failed = chance.random() < failing
        record = make_record(
            index,
            due=due,
            lag=chance.random(),
            role=20.0,
            ttft=slower * chance.lognormvariate(4.8, 0.35),
            gaps=[slower * chance.lognormvariate(2.9, 0.2) for _ in range(chance.randint(20, 80))],
            outcome=Outcome.STATUS if failed else Outcome.OK,
            phase=Phase.WARM_UP if due < 0 else Phase.WINDOW,
            group=("short", "long")[index % 2],
            replica=f"replica-{index % 2}",
        )
        if failed:
            record.status, record.detail = 503, "503 overloaded"
            record.first_token = record.first_choice = record.last_choice = 0
            record.event_times, record.event_tokens = [], []
        collectors[index % processes].add(record)
    merged = Collector.merge(collector.to_message() for collector in collectors)
    if not complete:
        merged.stop(START + round(seconds * SECOND / 2))
    figures = summarise(merged)
    evidence = evidence_of(merged, open_loop=True, steady_load=True, warm_up_seconds=5.0).model_copy(
        update={
            "loop_lag_p99_ms": 0.8,
            "cpu_shares": (0.21,) * processes,
            "throttled_seconds": 0.0,
            "gc_pause_max_ms": 3.0,
            "clock_step_ms": 0.0,
            "processes_lost": 0,
            "records_lost": 0,
        }
    )
    mean = figures.latencies["ttft"].mean if "ttft" in figures.latencies else 0.0
    return RunResult(
        run=run,
        started_at="2026-11-23T17:30:00+00:00",
        seconds=seconds + 7.5,
        complete=complete,
        stopped_because="" if complete else "Ctrl-C",
        processes=processes,
        scenario=ScenarioUsed(name="chat-ko", text="title: made up\n", hash="5" * 64),
        workload=WorkloadUsed(hash="7" * 64, remarks=("3 items of the file were empty and left out",)),
        target=TargetUsed(url="http://127.0.0.1:8000", model="tiny", replicas=2),
        machine=Machine(cpu="made up", cores=2, memory_bytes=8 * 2**30),
        versions={"tri-serve": "0", "locust": "2.47.0"},
        figures=figures,
        evidence=evidence,
        verdict=judge_run(evidence, figures, slo),
        server_side=ServerSide(
            sources=("gateway", "engine replica-0"),
            ttft_split=(
                TtftPart(name="client", mean_ms=0.4, source="records"),
                TtftPart(name="gateway", mean_ms=0.9, source="tri_gateway_first_event_seconds"),
                TtftPart(name="queue", mean_ms=0.3 * mean, source="vllm:request_queue_time_seconds"),
                TtftPart(
                    name="prefill", mean_ms=0.7 * mean - 1.3, source="vllm:request_prefill_time_seconds"
                ),
            ),
            kv_use_max=0.42,
            prefix_hit_rate=0.03,
            preemptions=0,
            client_tokens=11_990,
            server_tokens=12_000,
        ),
        histograms=histograms(merged),
        records=("records-0.jsonl", "records-1.jsonl"),
    )


@pytest.fixture(name="make_record")
def _make_record() -> MakeRecord:
    return make_record


@pytest.fixture(name="make_result")
def _make_result() -> MakeResult:
    return make_result
