"""Runs with plain Locust against a mock engine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tri_serve.load.records import Phase
from tri_serve.load.scenario.reading import read_scenario
from tri_serve.load.schedule import Schedule
from tri_serve.load.verdict import Level

from .conftest import Ran, bare_environment, free_port, locust_argv, two_processes

Locust = Callable[..., Ran]
Start = Callable[..., str]
Write = Callable[..., str]

pytestmark = pytest.mark.timeout(180)


def test_a_scenario_runs_with_plain_locust_and_leaves_a_result(
    locust: Locust, mock_engine: Start, scenario: Write
) -> None:
    path = scenario()
    url = mock_engine("--ttft-ms", "20", "--itl-ms", "2")
    ran = locust("-H", url, "--scenario", path, "--slo", "ttft=5s")
    result = ran.result
    due = [arrival.phase for arrival in Schedule(read_scenario(path).scenario).share(0)]
    assert result.complete
    assert result.figures.scheduled == due.count(Phase.WINDOW)
    assert result.figures.outcomes["ok"] == result.figures.scheduled
    assert len(ran.records()) == len(due)
    assert result.verdict.slo_met
    assert ran.code == result.verdict.exit_code
    assert result.figures.latencies["ttft"].min >= 20
    # Prompts are as long as asked, by the server's own count.
    assert result.figures.input_tokens.exact == result.figures.scheduled
    assert result.server_side is not None
    assert result.server_side.client_tokens == result.server_side.server_tokens == 8 * len(due)
    # For a person: the report, and a page.
    assert "SLO ttft=5s" in ran.stdout.replace("5000ms", "5s")
    assert (ran.folder / "report.html").read_text().startswith("<!doctype html>")
    assert (ran.folder / "scenario.yaml").read_text() == Path(path).read_text()


def test_locust_counts_one_request_for_each_that_was_validated(
    locust: Locust, mock_engine: Start, scenario: Write
) -> None:
    ran = locust("-H", mock_engine(), "--scenario", scenario(), "--json")
    counted = {entry["name"]: entry for entry in _stats(ran.stdout)}
    records = Counter(record["phase"] for record in ran.records())
    assert counted["chat"]["num_requests"] == records["window"]
    assert counted["chat (warm up)"]["num_requests"] == records["warm_up"]
    assert counted["chat"]["num_failures"] == 0


def test_several_processes_send_what_one_would_each_its_own_part(
    locust: Locust, mock_engine: Start, scenario: Write
) -> None:
    path = scenario()
    ran = locust("-H", mock_engine(), "--scenario", path, *two_processes())
    parts = [ran.records(process) for process in (0, 1)]
    for process, records in enumerate(parts):
        assert records
        assert {record["index"] % 2 for record in records} == {process}
    arrivals = list(Schedule(read_scenario(path).scenario).share(0))
    assert sorted(record["index"] for part in parts for record in part) == [a.index for a in arrivals]
    result = ran.result
    assert (result.processes, result.complete) == (2, True)
    assert result.figures.outcomes["ok"] == sum(a.phase is Phase.WINDOW for a in arrivals)
    assert len(result.evidence.cpu_shares or ()) == 2


def test_locusts_users_are_the_users_of_a_closed_loop(
    locust: Locust, mock_engine: Start, scenario: Write
) -> None:
    url = mock_engine("--ttft-ms", "40", "--itl-ms", "5")
    ran = locust("-H", url, "--scenario", scenario(), "-u", "6", "-r", "12", "-t", "2", *two_processes())
    records = [record for process in (0, 1) for record in ran.records(process)]
    indexes = [record["index"] for record in records]
    assert len(set(indexes)) == len(indexes)
    assert {index % 6 for index in indexes} == set(range(6))
    by_user: dict[int, list[dict[str, Any]]] = {}
    for record in sorted(records, key=lambda record: record["index"]):
        by_user.setdefault(record["index"] % 6, []).append(record)
    for asked in by_user.values():
        for before, after in pairwise(asked):
            assert after["sent"] >= before["done"]
    # -r 12 begins six users over half a second.
    firsts = sorted(asked[0]["sent"] for asked in by_user.values())
    assert 0.3e9 < firsts[-1] - firsts[0] < 0.7e9
    assert ran.result.scenario.resolved["window"] == 2.0
    assert ran.result.evidence.open_loop is False


def test_a_number_of_requests_ends_the_window_of_a_closed_loop(
    locust: Locust, mock_engine: Start, scenario: Write
) -> None:
    ran = locust(
        "-H", mock_engine("--ttft-ms", "20"), "--scenario", scenario(window="60s"),
        "--max-concurrency", "4", "--num-prompts", "40",
    )  # fmt: skip
    # Those that were under way when the fortieth was asked are of the window too.
    assert 40 <= ran.result.figures.scheduled <= 43
    assert ran.result.complete
    assert ran.result.figures.window_seconds < 20


def test_what_the_server_does_wrong_is_told_and_ends_with_the_servers_exit_code(
    locust: Locust, mock_engine: Start, scenario: Write
) -> None:
    ran = locust("-H", mock_engine("--fault", "error-event=3"), "--scenario", scenario(), "--json")
    outcomes = ran.result.figures.outcomes
    assert outcomes["in_band_error"] == ran.result.figures.scheduled
    assert ran.code == 5
    failed = {entry["name"]: entry["num_failures"] for entry in _stats(ran.stdout)}
    assert failed["chat"] == ran.result.figures.scheduled


def test_locust_keeps_one_error_for_each_outcome_and_not_the_server_s_words(
    locust: Locust, mock_engine: Start, scenario: Write
) -> None:
    ran = locust("-H", mock_engine("--fault", "error-event=3"), "--scenario", scenario())
    told = {
        line.split("RequestFailedError", 1)[1].strip()
        for line in ran.stderr.splitlines()
        if "RequestFailedError" in line
    }
    assert told == {"('in_band_error')"}


def test_what_is_beyond_the_most_open_is_counted_as_unsent(
    locust: Locust, mock_engine: Start, scenario: Write
) -> None:
    url = mock_engine("--ttft-ms", "1500")
    ran = locust("-H", url, "--scenario", scenario(), "--request-rate", "20", "--max-concurrency", "4")
    figures = ran.result.figures
    assert figures.outcomes["unsent"] > figures.scheduled / 2
    assert figures.outcomes["ok"] + figures.outcomes["unsent"] == figures.scheduled
    assert ran.result.verdict.level is Level.INVALID
    assert ran.code == 4


def test_options_can_come_from_the_environment(locust: Locust, mock_engine: Start, scenario: Write) -> None:
    ran = locust(
        "-H",
        mock_engine(),
        environment={"TRI_SERVE_LOAD_SCENARIO": scenario(), "TRI_SERVE_LOAD_REQUEST_RATE": "11"},
    )
    assert ran.result.scenario.resolved["arrivals"]["rate"] == 11


def test_a_key_is_sent_and_kept_nowhere(locust: Locust, mock_engine: Start, scenario: Write) -> None:
    key = "sk-not-to-be-found-anywhere"
    ran = locust("-H", mock_engine(key=key), "--scenario", scenario(), environment={"TRI_SERVE_API_KEY": key})
    assert ran.result.figures.outcomes["ok"] == ran.result.figures.scheduled > 0
    assert key not in ran.stdout + ran.stderr
    for path in ran.folder.iterdir():
        assert key.encode() not in path.read_bytes(), path


def test_ctrl_c_in_a_terminal_gives_a_part_of_a_result(
    tmp_path: Path, mock_engine: Start, scenario: Write
) -> None:
    folder = tmp_path / "results"
    argv = [*locust_argv(folder), "--headless", "--only-summary", "-H", mock_engine()]
    argv += ["--scenario", scenario(window="60s"), *two_processes()]
    log = tmp_path / "log"
    with log.open("w") as output:
        child = subprocess.Popen(
            argv, env=bare_environment(), stdout=output, stderr=output, start_new_session=True
        )
        try:
            _wait_for(lambda: "window" in log.read_text())
            time.sleep(1)
            os.killpg(child.pid, signal.SIGINT)  # as a terminal does: every process gets it
            code = child.wait(60)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    assert code == 130, log.read_text()
    result = Ran(130, log.read_text(), "", folder).result
    assert not result.complete
    assert result.stopped_because == "Ctrl-C"
    assert result.figures.outcomes["ok"] > 0
    assert "PARTIAL" in log.read_text()


def test_a_process_that_dies_is_told_and_the_others_figures_are_kept(
    tmp_path: Path, mock_engine: Start, scenario: Write
) -> None:
    folder = tmp_path / "results"
    argv = [*locust_argv(folder), "--headless", "--only-summary", "-H", mock_engine()]
    argv += ["--scenario", scenario(window="4s"), *two_processes()]
    log = tmp_path / "log"
    with log.open("w") as output:
        child = subprocess.Popen(argv, env=bare_environment(), stdout=output, stderr=output)
        _wait_for(lambda: "window" in log.read_text())
        workers = subprocess.run(
            ["pgrep", "-P", str(child.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        os.kill(int(workers[0]), signal.SIGKILL)
        code = child.wait(60)
    result = Ran(code, log.read_text(), "", folder).result
    assert not result.complete
    assert result.stopped_because == "1 of 2 processes of the client were lost"
    assert result.evidence.processes_lost == 1
    assert code == 4, "nobody ended it: the client failed"
    assert result.figures.outcomes["ok"] > 0


def test_the_web_ui_starts_shows_and_stops_runs(tmp_path: Path, mock_engine: Start, scenario: Write) -> None:
    import requests

    port = free_port()
    argv = [*locust_argv(tmp_path / "results"), "-H", mock_engine(), "--scenario", scenario(window="30s")]
    argv += ["--web-host", "127.0.0.1", "--web-port", str(port)]
    base = f"http://127.0.0.1:{port}"

    def rows() -> dict[str, str]:
        stats = requests.get(f"{base}/stats/requests", timeout=5).json()["extended_stats"]
        return {row["figure"]: row["value"] for row in stats[0]["data"]}

    with (tmp_path / "log").open("w") as output:
        child = subprocess.Popen(argv, env=bare_environment(), stdout=output, stderr=output)
        try:
            _wait_for(lambda: _answers(base))
            assert '"extended_tabs"' in requests.get(base, timeout=5).text
            for _ in range(2):
                requests.post(f"{base}/swarm", data={"user_count": "1", "spawn_rate": "1"}, timeout=5)
                _wait_for(lambda: int(rows().get("Answered", "0")) > 0)
                assert rows()["Stage"] in ("warm-up", "window")
                assert rows()["TTFT p50"].endswith(" ms")
                requests.post(f"{base}/stop", timeout=30)
                _wait_for(lambda: "Verdict" in rows())
                assert rows()["Verdict"] == "partial: the test was stopped"
                time.sleep(2.5)  # Locust keeps what /stats/requests answered for two seconds
            assert len(list((tmp_path / "results").rglob("result.json"))) == 2
            requests.post(f"{base}/swarm", data={"scenario": "no-such"}, timeout=5)
            _wait_for(lambda: "Error" in rows())
            assert "no scenario is named 'no-such'" in rows()["Error"]
        finally:
            child.send_signal(signal.SIGINT)
            child.wait(30)


def test_the_web_ui_gives_away_neither_the_key_nor_files(
    tmp_path: Path, mock_engine: Start, scenario: Write
) -> None:
    import requests

    secret = tmp_path / "secret.txt"
    secret.write_text("not-for-the-web: 1\n")
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)
        port = free_port()
        argv = [*locust_argv(tmp_path / "results"), "-H", mock_engine(), "--scenario", scenario()]
        argv += ["--web-port", str(port)]
        environment = bare_environment(TRI_SERVE_API_KEY="sk-only-for-the-server-named")
        base = f"http://127.0.0.1:{port}"

        def error() -> str:
            stats = requests.get(f"{base}/stats/requests", timeout=5).json()["extended_stats"]
            return str([row["value"] for row in stats[0]["data"] if row["figure"] == "Error"])

        with (tmp_path / "log").open("w") as output:
            child = subprocess.Popen(argv, env=environment, stdout=output, stderr=output)
            try:
                _wait_for(lambda: _answers(base))
                elsewhere = f"http://127.0.0.1:{listening.getsockname()[1]}"
                requests.post(f"{base}/swarm", data={"host": elsewhere}, timeout=5)
                connection, _ = listening.accept()
                with connection:
                    heard.append(connection.recv(65536))
                    connection.sendall(b"HTTP/1.1 401 no\r\ncontent-length: 2\r\n\r\n{}")
                _wait_for(lambda: "is sent none" in error())
                time.sleep(2.5)  # Locust keeps what /stats/requests answered for two seconds
                requests.post(f"{base}/swarm", data={"scenario": str(secret)}, timeout=5)
                _wait_for(lambda: "no scenario is named" in error())
                assert "not-for-the-web" not in error()
            finally:
                child.send_signal(signal.SIGINT)
                child.wait(30)
    assert heard[0].startswith(b"GET /v1/models")
    assert b"authorization" not in heard[0].lower()


def _stats(stdout: str) -> list[dict[str, Any]]:
    """What ``--json`` prints, behind our report."""
    start = stdout.index("\n[") + 1
    found, _ = json.JSONDecoder().raw_decode(stdout[start:])
    assert isinstance(found, list)
    return found


def _answers(url: str) -> bool:
    import requests

    try:
        return requests.get(url, timeout=2).status_code == 200
    except requests.ConnectionError:
        return False


def _wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.2)
