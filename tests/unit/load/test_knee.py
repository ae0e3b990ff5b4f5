"""The search for the rate at which an SLO breaks, on servers that are formulas."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tri_serve.cli.load_report import knee_exit_code, print_knee
from tri_serve.cli.main import run as run_command
from tri_serve.errors import ClientSaturatedError, UsageError
from tri_serve.load.knee import find_knee
from tri_serve.load.results.model import RunResult
from tri_serve.load.run import LoadRun, RunOutcome
from tri_serve.load.verdict import Level, Reason

Run = Callable[[float], RunResult]


def reason(cause: str) -> Reason:
    words = {"what": "the event loop woke late", "figure": "18 ms", "threshold": "5 ms"}
    advice = {"why": "because", "advice": "give the client more processes"}
    return Reason.model_validate(
        {"name": "loop-lag", "level": Level.INVALID, "cause": cause, **words, **advice}, strict=True
    )


def ran(*, kept: bool, invalid: str = "", complete: bool = True) -> RunResult:
    reasons = [reason(invalid)] if invalid else []
    code = {"client": 4, "server": 5}.get(invalid, 0 if kept else 1)
    verdict = SimpleNamespace(slo_met=kept, reasons=reasons, exit_code=code, slo="ttft=1000ms")
    return cast(RunResult, SimpleNamespace(verdict=verdict, complete=complete, stopped_because="Ctrl-C"))


def server(breaks_at: float, tried: list[float], client_ends_at: float = 1e9) -> Run:
    def run(rate: float) -> RunResult:
        tried.append(rate)
        return ran(kept=rate < breaks_at, invalid="client" if rate >= client_ends_at else "")

    return run


@pytest.mark.parametrize("breaks_at", [1.5, 2.0, 7.0, 33.3, 64.0, 150.0])
def test_the_two_rates_enclose_the_knee_as_closely_as_asked(breaks_at: float) -> None:
    tried: list[float] = []
    found = find_knee(server(breaks_at, tried), lowest=1, highest=200, precision=0.1)
    assert found.kept is not None
    assert found.missed is not None
    assert found.kept < breaks_at <= found.missed <= 1.1 * found.kept
    assert [point.rate for point in found.points] == sorted(tried)
    assert len(tried) <= 12


def test_a_server_that_hangs_and_so_fills_the_client_keeps_nothing() -> None:
    tried: list[float] = []

    def run(rate: float) -> RunResult:
        tried.append(rate)
        found = ran(kept=True)
        if rate > 4:
            causes = ("client", "server")
            found.verdict.reasons += tuple(reason(it) for it in causes)
        return found

    found = find_knee(run, lowest=1, highest=100)
    assert found.kept == 4
    assert found.missed is not None


def test_a_server_that_never_breaks_is_asked_up_to_the_highest_rate() -> None:
    tried: list[float] = []
    found = find_knee(server(1e6, tried), lowest=3, highest=20)
    assert tried == [3, 6, 12, 20]
    assert (found.kept, found.missed) == (20, None)
    assert "the highest rate" in found.ended_because


def test_a_promise_missed_at_the_lowest_rate_is_looked_for_no_further() -> None:
    tried: list[float] = []
    found = find_knee(server(0.5, tried), lowest=1, highest=100)
    assert tried == [1]
    assert (found.kept, found.missed) == (None, 1)


def test_it_ends_where_the_client_is_no_longer_to_be_believed() -> None:
    tried: list[float] = []
    found = find_knee(server(1e6, tried, client_ends_at=8), lowest=1, highest=100)
    assert tried == [1, 2, 4, 8, 8]
    assert (found.kept, found.missed) == (4, None)
    assert found.ended_because == (
        "at 8 requests/s, tried twice, the figures are not to be believed: the event loop woke late: 18 ms; "
        "allowed 5 ms"
    )


def test_one_disturbed_run_ends_no_search() -> None:
    tried: list[float] = []

    def run(rate: float) -> RunResult:
        tried.append(rate)
        return ran(kept=rate < 3, invalid="client" if tried == [1, 2] else "")

    found = find_knee(run, lowest=1, highest=100, precision=0.5)
    assert tried[:4] == [1, 2, 2, 4]
    assert (found.kept, found.missed) == (2.8284, 4)
    assert knee_exit_code(found) == 0


def test_a_search_that_judged_no_rate_says_so_with_the_reason_and_what_to_do(
    capsys: pytest.CaptureFixture[str], make_result: Callable[..., RunResult]
) -> None:
    made = make_result(seconds=30.0)
    verdict = made.verdict.model_copy(
        update={"reasons": (reason("client"),), "level": Level.INVALID, "exit_code": 4}
    )
    found = find_knee(lambda rate: made.model_copy(update={"verdict": verdict}), lowest=1, highest=100)
    print_knee(found, Path("runs"), "table")
    said = capsys.readouterr().out
    assert "ttft=500ms,tpot=50ms: no rate could be judged" in said
    assert "missed" not in said
    with pytest.raises(
        ClientSaturatedError, match=r"tried twice, .*the event loop woke late: 18 ms"
    ) as ended:
        knee_exit_code(found)
    assert ended.value.hint == "give the client more processes"


def test_ctrl_c_at_a_rate_between_others_ends_with_130() -> None:
    tried: list[float] = []

    def run(rate: float) -> RunResult:
        tried.append(rate)
        found = ran(kept=rate < 3, complete=len(tried) < 4)
        found.evidence = SimpleNamespace(processes_lost=0)  # type: ignore[assignment]
        return found

    assert knee_exit_code(find_knee(run, lowest=1, highest=100)) == 130
    assert tried == [1, 2, 4, 2.8284]


def test_a_server_that_fails_misses_the_promise() -> None:
    def run(rate: float) -> RunResult:
        return ran(kept=True, invalid="server" if rate >= 3 else "")

    found = find_knee(run, lowest=1, highest=100)
    assert found.kept is not None
    assert found.missed is not None
    assert found.kept < 3 <= found.missed


def test_ctrl_c_ends_the_search() -> None:
    found = find_knee(lambda rate: ran(kept=True, complete=False), lowest=1, highest=100)
    assert len(found.points) == 1
    assert found.ended_because == "stopped: Ctrl-C"


@pytest.mark.parametrize(("lowest", "highest"), [(0, 1), (2, 1), (1, float("inf"))])
def test_rates_that_are_none_are_refused(lowest: float, highest: float) -> None:
    with pytest.raises(UsageError, match="lowest rate"):
        find_knee(cast(Any, None), lowest=lowest, highest=highest)


def test_a_run_that_is_made_once_more_has_a_folder_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make_result: Callable[..., RunResult],
) -> None:
    made = make_result(seconds=30.0)
    verdict = made.verdict.model_copy(
        update={"reasons": (reason("client"),), "level": Level.INVALID, "exit_code": 4}
    )
    result, folders = made.model_copy(update={"verdict": verdict}), []

    def executed(run: LoadRun, number: int = 1, of: int = 1) -> RunOutcome:
        folders.append(run.folder.name)
        (run.folder / "result.json").write_text(result.model_dump_json())
        return RunOutcome(result, run.folder / "result.json", 4)

    monkeypatch.setattr("tri_serve.cli.load._executed", executed)
    words = ["load", "knee", "smoke", "--url", "http://127.0.0.1:9", "--slo", "ttft=1s", "--json"]
    assert run_command([*words, "--output-dir", str(tmp_path), "--lowest", "4"]) == 4
    assert folders == ["rate-4", "rate-4-again"]
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["believed"], found["kept"], found["missed"]) == (False, None, None)
    assert "error: at 4 requests/s, tried twice, the figures are not to be believed" in captured.err
    assert "hint: give the client more processes" in captured.err
