"""From what the processes reported to the result, and to its files."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tri_serve.errors import UsageError
from tri_serve.load.client_health import ClientHealth, ProcessHealth
from tri_serve.load.evidence import Evidence
from tri_serve.load.figures.collector import Collector
from tri_serve.load.figures.evidence import client_ttft_halves, evidence_of
from tri_serve.load.figures.model import Figures
from tri_serve.load.figures.summary import histograms, summarise
from tri_serve.load.results.model import RunResult, ScenarioUsed, ServerSide, TargetUsed, WorkloadUsed
from tri_serve.load.results.page import page
from tri_serve.load.results.record_file import read_records
from tri_serve.load.results.vllm_json import vllm_json as as_vllm
from tri_serve.load.scenario.models import ClosedLoop, Constant, Conversations, Gamma, Poisson, Scenario
from tri_serve.load.server_side.changes import Span
from tri_serve.load.server_side.scrape import History
from tri_serve.load.server_side.summary import (
    ClientSide,
    counted_span,
    describe,
    engine_ttft_ms,
    ttft_drift_ms,
)
from tri_serve.load.swarm.leader import Gathered
from tri_serve.load.swarm.machine import this_machine, versions
from tri_serve.load.verdict import judge_run


@dataclass(frozen=True)
class About:
    """What a result says beside what was measured."""

    scenario: ScenarioUsed
    release: str | None = None
    replicas: int | None = None
    engine_version: str = ""


def result_of(gathered: Gathered, about: About, history: History | None) -> RunResult:
    """The result of a run that at least one process reported of."""
    order, shares = gathered.order, gathered.shares
    collector = Collector.merge(share["collector"] for share in shares)
    figures = summarise(collector)
    server, found = _server_side(gathered, collector, figures, history)
    evidence = _evidence(gathered, collector, found)
    because = gathered.stopped_because
    if gathered.lost and not because:
        because = f"{gathered.lost} of {gathered.workers} processes of the client were lost"
    started = (gathered.wall_start + round(order.scenario.warm_up * 1e9)) / 1e9
    return RunResult(
        run=order.run,
        started_at=datetime.fromtimestamp(started).astimezone().isoformat(timespec="milliseconds"),
        seconds=(gathered.ended - gathered.start) / 1e9,
        complete=not because,
        stopped_because=because,
        processes=gathered.workers,
        scenario=about.scenario,
        workload=WorkloadUsed(
            hash=gathered.workload_hash, tokenizer=gathered.tokenizer, remarks=gathered.remarks
        ),
        target=TargetUsed(url=order.url, model=order.model, release=about.release, replicas=about.replicas),
        machine=this_machine(),
        versions=versions(about.engine_version),
        figures=figures,
        evidence=evidence,
        verdict=judge_run(evidence, figures, order.scenario.slo),
        server_side=server,
        histograms=histograms(collector),
        records=tuple(share["records"] for share in shares if share["records"] and not share["record_error"]),
    )


def _evidence(gathered: Gathered, collector: Collector, found: Mapping[str, Any]) -> Evidence:
    scenario, shares = gathered.order.scenario, gathered.shares
    arrivals = scenario.arrivals
    healths = [ProcessHealth.from_message(share["health"]) for share in shares]
    throttled = [health.throttled_seconds for health in healths if health.throttled_seconds is not None]
    open_means = [share["in_flight_mean"] for share in shares]
    own = evidence_of(
        collector,
        open_loop=not isinstance(scenario.arrivals, ClosedLoop),
        steady_load=isinstance(scenario.arrivals, ClosedLoop | Constant | Poisson | Gamma),
        warm_up_seconds=scenario.warm_up,
    )
    measured: dict[str, Any] = {
        "loop_lag_p99_ms": max(health.loop_lag_p99_ms for health in healths),
        "loop_lag_max_ms": max(health.loop_lag_max_ms for health in healths),
        "cpu_shares": tuple(health.cpu_share for health in healths),
        "cpu_wait_share": ClientHealth(processes=tuple(healths)).cpu_wait_share,
        "real_time": all(share["real_time"] for share in shares),
        "throttled_seconds": max(throttled, default=None),
        "gc_pause_max_ms": max(health.gc_longest_ms for health in healths),
        "clock_step_ms": max(health.clock_step_ms for health in healths),
        "processes_lost": gathered.lost,
        "records_lost": sum(share["records_lost"] for share in shares),
        "stagger_seconds": arrivals.stagger if isinstance(arrivals, ClosedLoop) else None,
        "users": arrivals.users if isinstance(arrivals, ClosedLoop) and not _pauses(scenario) else None,
        "pauses_after_failures": sum(share["pauses_after_failures"] for share in shares),
    }
    if own.in_flight_mean is not None and all(mean is not None for mean in open_means):
        # Counted as requests began and ended, so that Little's law is held against something of its own.
        measured["in_flight_mean"] = sum(open_means)
    return own.model_copy(update={**measured, **found})


def _pauses(scenario: Scenario) -> bool:
    """Whether users of a closed loop think."""
    loop = isinstance(scenario.arrivals, ClosedLoop) and scenario.arrivals.think > 0
    return loop or any(isinstance(part, Conversations) and part.think > 0 for part in scenario.workload.parts)


def _server_side(
    gathered: Gathered, collector: Collector, figures: Figures, history: History | None
) -> tuple[ServerSide | None, dict[str, Any]]:
    """What the server says, and what of it is evidence."""
    if history is None or len(history.snapshots) < 2:
        return None, {}
    scenario, shares = gathered.order.scenario, gathered.shares
    window = Span(collector.window.start, collector.until)
    span = counted_span(history, window, warm_up=scenario.warm_up > 0, cool_down=scenario.cool_down > 0)
    ttft = figures.latencies.get("ttft")
    client = ClientSide(
        ttft_mean_ms=ttft.mean if ttft else None,
        ttft_count=ttft.count if ttft else 0,
        output_tokens=sum(share["tokens"] for share in shares),
        cancelled=sum(share["cancelled"] for share in shares),
    )
    server = describe(history, span, client)
    if server is None:
        return None, {}
    first, second = client_ttft_halves(collector)
    found = {
        # As the client's mean: of first tokens within the window, whenever their requests were due.
        "ttft_server_ms": engine_ttft_ms(history, window),
        "tokens_client": server.client_tokens,
        "tokens_server": server.server_tokens,
        "engine_restarts": len(server.restarts),
    }
    if first is not None and second is not None:
        found["ttft_drift_ms"] = ttft_drift_ms(history, window, (first, second))
    return server, found


@dataclass(frozen=True)
class Written:
    """What became of the files."""

    path: Path | None
    """Of result.json; None: it could not be written."""
    remarks: tuple[str, ...]


def write_files(result: RunResult, folder: Path, *, vllm_json: bool, detailed: bool = False) -> Written:
    """Write result.json, report.html, the scenario and, where wanted, vllm.json; ``detailed``: with its lists.

    What cannot be written is a remark and no error: the figures are shown whatever the disk says.
    """
    remarks: list[str] = []

    def write(name: str, text: str) -> Path | None:
        path = folder / name
        # Written beside and renamed: half a result would be read as one.
        beside = folder / f".{name}.part"
        try:
            beside.write_text(text, encoding="utf-8")
            beside.replace(path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            full = " (the disk is full)" if error.errno == errno.ENOSPC else ""
            remarks.append(f"{path} could not be written: {error.strerror or error}{full}")
            return None
        return path

    path = write("result.json", result.model_dump_json(indent=1))
    write("scenario.yaml", result.scenario.text)
    write("report.html", page(result))
    if vllm_json:
        records = None
        if detailed:
            try:
                records = [record for name in result.records for record in read_records(folder / name)]
            except UsageError as error:
                remarks.append(f"vllm.json has no lists of single requests: {error}")
        write("vllm.json", json.dumps(as_vllm(result, records), indent=1))
    return Written(path, tuple(remarks))
