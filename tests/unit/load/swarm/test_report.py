"""From what processes and servers reported to what is held against a run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tri_serve.load.client_health import ProcessHealth
from tri_serve.load.figures.collector import Collector, Window
from tri_serve.load.figures.summary import summarise
from tri_serve.load.records import Outcome, Record
from tri_serve.load.results.model import RunResult, ScenarioUsed
from tri_serve.load.scenario.models import Scenario
from tri_serve.load.server_side.page import Buckets, Page
from tri_serve.load.server_side.scrape import History, Snapshot, Source
from tri_serve.load.swarm import report
from tri_serve.load.swarm.leader import Gathered
from tri_serve.load.swarm.order import RunOrder
from tri_serve.load.swarm.outcome import INTERRUPTED, NothingMeasuredError, finish
from tri_serve.spec.slo import Slo

S = 10**9
ENGINE = Source("replica-0", "engine", "http://127.0.0.1:2/metrics")


def page(ttft_sum: float, count: int) -> Page:
    histogram = Buckets(ttft_sum, count, {float("inf"): count})
    return Page(counters={}, gauges={}, histograms={"vllm:time_to_first_token_seconds": histogram})


def test_the_engines_ttft_is_of_the_time_that_the_clients_is_of() -> None:
    # Ten first tokens within the window, at 90 ms; ten after it, at 900 ms, of requests that waited.
    pages = [page(0.0, 0), page(0.0, 0), page(0.9, 10), page(9.9, 20)]
    seen = History(
        (ENGINE,), [Snapshot(at * S, {"replica-0": one}) for at, one in enumerate(pages)], rounds=4
    )
    collector = Collector(Window(S, 2 * S), Slo())
    scenario = SimpleNamespace(warm_up=0.0, cool_down=0.0)
    shares = [{"tokens": 0, "cancelled": 0}]
    gathered = cast(Gathered, SimpleNamespace(order=SimpleNamespace(scenario=scenario), shares=shares))
    _, found = report._server_side(gathered, collector, summarise(collector), seen)
    assert found["ttft_server_ms"] == pytest.approx(90)


USED = report.About(ScenarioUsed(name="short", text="title: t\n", hash="5" * 64))


def share(collector: Collector, **more: Any) -> dict[str, Any]:
    """What a process reports."""
    health = ProcessHealth(
        **dict.fromkeys(ProcessHealth.model_fields, 0)
        | {"process": "process-0", "throttled_seconds": None, "cpu_wait_share": None}
    )
    return {
        "collector": collector.to_message(),
        "health": health.to_message(),
        "real_time": True,
        "in_flight_mean": 3.0,
        "tokens": 0,
        "cancelled": 0,
        "pauses_after_failures": 0,
        "records": "records-0.jsonl",
        "records_lost": 0,
        "record_error": "",
        **more,
    }


def gathered(
    shares: list[dict[str, Any]],
    arrivals: dict[str, Any],
    folder: Path,
    part: dict[str, Any] | None = None,
    **more: Any,
) -> Gathered:
    part = part or {"name": "a", "kind": "written", "input": {"fixed": 48}}
    scenario = Scenario.model_validate_json(
        json.dumps(
            {
                "title": "t",
                "arrivals": arrivals,
                "workload": {"parts": [part]},
                "warm_up": "1s",
                "window": "10s",
            }
        )
    )
    order = RunOrder(
        run="r", folder=folder, url="http://h", model="m", scenario=scenario, scenario_folder=folder
    )
    known = {"start": 0, "wall_start": 0, "ended": 11 * S, "workers": len(shares), "lost": 0, "remarks": ()}
    words = {"workload_hash": "7" * 64, "tokenizer": "", "stopped_because": ""}
    return Gathered(**{"order": order, "shares": shares, **known, **words, **more})


CLOSED = {"kind": "closed", "users": 6, "stagger": "4s"}
TALKS = {"name": "a", "kind": "conversations", "input": {"fixed": 48}, "think": "2s"}


@pytest.mark.parametrize(
    ("arrivals", "part", "users", "stagger"),
    [
        (CLOSED, None, 6, 4.0),
        ({**CLOSED, "think": "1s"}, None, None, 4.0),
        (CLOSED, TALKS, None, 4.0),
        ({"kind": "poisson", "rate": 3}, None, None, None),
    ],
    ids=["users", "users who pause", "users who talk and pause", "open loop"],
)
def test_the_users_of_a_closed_loop_are_evidence_where_none_of_them_pauses(
    arrivals: dict[str, Any],
    part: dict[str, Any] | None,
    users: int | None,
    stagger: float | None,
    tmp_path: Path,
) -> None:
    shares = [share(Collector(Window(S, 11 * S), Slo()), pauses_after_failures=pauses) for pauses in (2, 5)]
    evidence = report.result_of(gathered(shares, arrivals, tmp_path, part), USED, None).evidence
    assert (evidence.users, evidence.stagger_seconds) == (users, stagger)
    assert evidence.pauses_after_failures == 7
    assert evidence.in_flight_mean == 6.0


def test_a_run_stopped_in_its_warm_up_leaves_no_tables_of_nothing(tmp_path: Path) -> None:
    collector = Collector(Window(S, 11 * S), Slo())
    collector.stop(S // 2)
    stopped = gathered([share(collector)], CLOSED, tmp_path, stopped_because="Ctrl-C")
    with pytest.raises(
        NothingMeasuredError, match=r"stopped in the warm-up \(Ctrl-C\): nothing was counted"
    ) as no:
        finish(stopped, USED, None, vllm_json=False, detailed=False)
    assert no.value.exit_code == INTERRUPTED
    assert list(tmp_path.iterdir()) == []


def test_a_run_stopped_while_its_last_requests_end_is_not_whole_either(tmp_path: Path) -> None:
    collector = Collector(Window(S, 11 * S), Slo())
    collector.stop(12 * S)
    stopped = gathered([share(collector)], CLOSED, tmp_path, stopped_because="Ctrl-C")
    assert report.result_of(stopped, USED, None).evidence.stopped_early


def test_vllms_lists_have_an_entry_for_each_request(
    make_result: Callable[..., RunResult], make_record: Callable[..., Record], tmp_path: Path
) -> None:
    result = make_result(seconds=5.0)
    for process, name in enumerate(result.records):
        made = [make_record(2 * number + process, gaps=(5.0,) * 3) for number in range(4)]
        lines = [json.dumps(report_of(record)) for record in made]
        (tmp_path / name).write_text("\n".join(["{}", *lines]) + "\n")
    written = report.write_files(result, tmp_path, vllm_json=True, detailed=True)
    assert written.remarks == ()
    document = json.loads((tmp_path / "vllm.json").read_text())
    assert len(document["ttfts"]) == len(document["itls"]) == 8
    assert document["itls"][0] == pytest.approx([0.005] * 3)
    report.write_files(result, tmp_path, vllm_json=True)
    assert "ttfts" not in json.loads((tmp_path / "vllm.json").read_text())


def test_lists_whose_records_are_on_another_machine_are_missed_aloud(
    make_result: Callable[..., RunResult], tmp_path: Path
) -> None:
    written = report.write_files(make_result(seconds=5.0), tmp_path, vllm_json=True, detailed=True)
    assert "completed" in json.loads((tmp_path / "vllm.json").read_text())
    (remark,) = written.remarks
    assert remark.startswith(
        f"vllm.json has no lists of single requests: {tmp_path}/records-0.jsonl: No such"
    )


def report_of(record: Record) -> dict[str, Any]:
    values = dataclasses.asdict(record)
    assert record.outcome is Outcome.OK
    return values
