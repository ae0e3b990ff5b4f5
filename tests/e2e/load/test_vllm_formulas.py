"""The ``*_vllm`` figures are what vLLM's own code makes of the same requests."""

import json
import os
import random
import subprocess
from pathlib import Path
from typing import Protocol

import pytest

from tri_serve.load.figures.collector import Collector, Window
from tri_serve.load.figures.evidence import evidence_of
from tri_serve.load.figures.summary import summarise
from tri_serve.load.records import Outcome, Record
from tri_serve.load.results.model import Machine, RunResult, ScenarioUsed, TargetUsed, WorkloadUsed
from tri_serve.load.results.vllm_json import vllm_json
from tri_serve.load.verdict import judge_run
from tri_serve.spec.slo import Slo

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).with_name("metrics_of_vllm.py")
MS = 1_000_000
SECOND = 1_000 * MS
WINDOW = Window(5_000 * SECOND, 5_020 * SECOND)
SLO = Slo(ttft=0.2, tpot=0.025, e2e=1.5)


class EngineEnvironment(Protocol):
    @property
    def python(self) -> Path: ...


def streamed(index: int, chance: random.Random) -> Record:
    sent = WINDOW.start + round(chance.uniform(0, 20) * SECOND)
    record = Record(index, f"item-{index}", scheduled=sent, dispatched=sent, sent=sent, usage_reported=True)
    if chance.random() < 0.1:
        record.outcome, record.detail, record.done = Outcome.STATUS, "503", sent + MS
        return record
    record.outcome = Outcome.OK
    # A role event, then tokens; some events bear two.
    role = sent + round(chance.lognormvariate(4.5, 0.6) * MS)
    times, tokens = [role], [0]
    for _ in range(chance.randint(0, 70)):
        times.append(times[-1] + round(chance.lognormvariate(2.8, 0.5) * MS))
        tokens.append(chance.choice((1, 1, 1, 2)))
    record.event_times, record.event_tokens = times, tokens
    record.first_choice, record.last_choice = times[0], times[-1]
    record.first_token = times[1] if len(times) > 1 else 0
    record.last = record.done = times[-1] + 2 * MS
    record.output_tokens, record.input_tokens = max(1, sum(tokens)), chance.randint(10, 900)
    return record


def result_of(collector: Collector) -> RunResult:
    figures = summarise(collector)
    evidence = evidence_of(collector, open_loop=True, steady_load=True, warm_up_seconds=0)
    return RunResult(
        run="r",
        started_at="2026-01-02T03:04:05+00:00",
        seconds=25,
        complete=True,
        processes=1,
        scenario=ScenarioUsed(name="s", text="", hash=""),
        workload=WorkloadUsed(hash=""),
        target=TargetUsed(url="http://127.0.0.1:8000", model="m"),
        machine=Machine(),
        versions={},
        figures=figures,
        evidence=evidence,
        verdict=judge_run(evidence, figures, SLO),
    )


def test_every_figure_of_vllm_is_what_vllm_computes(
    engine_environment: EngineEnvironment, tmp_path: Path
) -> None:
    chance = random.Random(4)
    records = [streamed(index, chance) for index in range(400)]
    collector = Collector(WINDOW, SLO)
    for record in records:
        collector.add(record)
    document = vllm_json(result_of(collector), records)
    path = tmp_path / "detailed.json"
    path.write_text(json.dumps(document))
    goodput = json.dumps({"ttft": 200, "tpot": 25, "e2el": 1500})
    env = os.environ | {"VLLM_TARGET_DEVICE": "cpu", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    argv = [str(engine_environment.python), str(SCRIPT), str(path), goodput]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert len(theirs) >= 30
    assert 0 < theirs["request_goodput"] < theirs["request_throughput"]
    # vLLM adds up gaps in seconds where ours subtracts ns: some 1e-12 s of difference.
    assert {name: document[name] for name in theirs} == pytest.approx(theirs, rel=1e-9, abs=1e-7)
