"""The rows of the web UI's tab."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tri_serve.errors import UsageError
from tri_serve.load.progress import Progress
from tri_serve.load.swarm.web import rows_of

GOING = Progress(
    stage="window", elapsed=12, total=60, scheduled=40, completed=30, failed=4, unsent=2, open_requests=4,
    outcomes={"unsent": 2, "status": 4}, ttft_p50_ms=51.04, ttft_p99_ms=80, tpot_p50_ms=5, tpot_p99_ms=6,
    itl_p99_ms=9, output_tokens_per_second=1234.5, requests_per_second=3.25, target_rate=4, goodput_share=0.75,
)  # fmt: skip


def rows(**host: Any) -> dict[str, tuple[str, str]]:
    whole = SimpleNamespace(**{"failure": None, "finished": None, "leader": None, "latest": None, **host})
    return {row["figure"]: (row["value"], row["meaning"]) for row in rows_of(cast(Any, whole))}


def test_a_run_that_goes_on_shows_what_locust_does_not_know() -> None:
    shown = rows(leader=SimpleNamespace(latest=GOING))
    assert shown["TTFT p50"][0] == "51.0 ms"
    assert shown["ITL p99"][0] == "9.0 ms"
    assert shown["TPOT p50"][0] == "5.0 ms"
    assert shown["Output"][0] == "1,234.5 tok/s"
    assert shown["Goodput"][0] == "75.0%"
    assert shown["Failed"] == ("4", "status 4")
    assert shown["Unsent"][0] == "2"
    assert "Verdict" not in shown


def test_what_is_not_measured_yet_is_not_zero() -> None:
    shown = rows(leader=SimpleNamespace(latest=Progress(stage="warm-up")))
    assert shown["TTFT p50"][0] == "-"
    assert "Goodput" not in shown


def test_a_run_that_has_ended_shows_its_verdict_with_its_last_figures() -> None:
    verdict = SimpleNamespace(
        level=SimpleNamespace(value="SUSPECT"),
        reasons=[SimpleNamespace(said="it was late: 9 ms; allowed 5 ms")],
    )
    result = SimpleNamespace(complete=True, stopped_because="", verdict=verdict)
    shown = rows(finished=SimpleNamespace(result=result, path=Path("/r/result.json")), latest=GOING)
    assert shown["Verdict"] == ("SUSPECT", "it was late: 9 ms; allowed 5 ms")
    assert shown["Result"][0] == "/r/result.json"
    assert shown["Answered"][0] == "30"


def test_a_run_that_could_not_be_says_why() -> None:
    shown = rows(failure=UsageError("no server is named", hint="-H URL"))
    assert shown == {"Error": ("no server is named (-H URL)", "the run could not be done")}


def test_before_the_first_run_there_is_nothing() -> None:
    assert rows() == {}
