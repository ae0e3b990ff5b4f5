"""``tri-serve load`` as a user types it, against mock engines: what works, and what is said to what cannot."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Ran, cli_argv, cli_environment, free_port

Cli = Callable[..., Ran]
Start = Callable[..., str]
Write = Callable[..., str]

pytestmark = pytest.mark.timeout(180)


def _lines(ran: Ran) -> list[str]:
    """What stands on stderr but progress and notes."""
    return [line for line in ran.stderr.splitlines() if line.startswith(("error:", "hint:", "warning:"))]


def test_a_run_prints_its_report_and_says_where_its_files_are(
    cli: Cli, mock_engine: Start, scenario: Write, tmp_path: Path
) -> None:
    ran = cli(
        "run", scenario(), "--url", mock_engine(), "--output-dir", str(tmp_path / "results"),
        "--goodput", "ttft:5000 tpot:1000", "--save-detailed", "--processes", "2",
    )  # fmt: skip
    result = ran.result
    assert ran.code == result.verdict.exit_code
    assert "SLO ttft=5000ms,tpot=1000ms" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 80 or "http://" in ran.stdout
    assert f"result: {ran.folder / 'result.json'}" in ran.stderr
    assert "warm-up" in ran.stderr
    assert result.processes == 2
    assert "load: open loop, Poisson arrivals at 30/s; warm-up 0.5 s, window 2 s; seed 1" in ran.stdout
    vllm = json.loads((ran.folder / "vllm.json").read_text())
    assert vllm["completed"] == result.figures.vllm.completed
    assert len(vllm["ttfts"]) == len(vllm["itls"]) == vllm["completed"] + vllm["failed"]


def test_json_goes_to_stdout_alone_and_a_folder_is_made_where_none_is_named(
    cli: Cli, mock_engine: Start, scenario: Write, tmp_path: Path
) -> None:
    ran = cli("run", scenario(), "--url", mock_engine(), "--json")
    result = json.loads(ran.stdout)
    folder = next((tmp_path / "state" / "tri-serve" / "loads").iterdir())
    assert json.loads((folder / "result.json").read_text())["run"] == result["run"]


def test_an_slo_that_is_missed_ends_with_1(cli: Cli, mock_engine: Start, scenario: Write) -> None:
    url = mock_engine("--ttft-ms", "100")
    ran = cli("run", scenario("{kind: constant, rate: 5}"), "--url", url, "--slo", "ttft=90ms", "--json")
    verdict = json.loads(ran.stdout)["verdict"]
    assert verdict["slo_met"] is False
    # On a machine that is busy with other things the client may have been the limit.
    assert ran.code == verdict["exit_code"]
    assert ran.code in (1, 4)
    assert _lines(ran)[0].startswith("error: ")


def test_every_round_of_a_repeated_run_has_its_folder(
    cli: Cli, mock_engine: Start, scenario: Write, tmp_path: Path
) -> None:
    ran = cli(
        "run", scenario(window="1s"), "--url", mock_engine(), "--repeat", "2",
        "--output-dir", str(tmp_path / "results"), "--json",
    )  # fmt: skip
    assert "round 2 of 2" in ran.stderr
    rounds = [json.loads((ran.folder / f"round-{n}" / "result.json").read_text()) for n in (1, 2)]
    assert [found["run"] for found in json.loads(ran.stdout)] == [found["run"] for found in rounds]
    assert (ran.folder / "round-1" / "result.json").exists()
    assert (ran.folder / "round-2" / "result.json").exists()


# -- what cannot be


def test_a_host_that_does_not_answer(cli: Cli, scenario: Write) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ran = cli("run", scenario(), "--url", url)
    assert ran.code == 18
    assert len(_lines(ran)) == 2
    assert url in _lines(ran)[0]
    assert "does not answer" in _lines(ran)[0]
    assert ran.stdout == ""


@pytest.mark.parametrize("key", [None, "sk-wrong"])
def test_a_key_that_is_missing_or_refused(
    key: str | None, cli: Cli, mock_engine: Start, scenario: Write
) -> None:
    environment = {"TRI_SERVE_API_KEY": key} if key else {}
    ran = cli("run", scenario(), "--url", mock_engine(key="sk-right"), environment=environment)
    assert ran.code == 18
    assert "401" in _lines(ran)[0]
    assert "TRI_SERVE_API_KEY" in _lines(ran)[1]
    assert "sk-" not in ran.stderr


def test_a_model_that_is_not_served_is_answered_with_the_nearest(
    cli: Cli, mock_engine: Start, scenario: Write
) -> None:
    ran = cli("run", scenario(), "--url", mock_engine("--model", "tri-tiny"), "--model", "tri-tini")
    assert ran.code == 2
    assert "'tri-tini'" in _lines(ran)[0]
    assert "tri-tiny" in _lines(ran)[0] + _lines(ran)[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--request-rate", "0"), "--request-rate 0: a number above 0"),
        (("--duration", "60"), "--duration 60: a duration without a unit; write 60s, 60ms or 60m"),
        (("--set", "window=60"), "--set window=60: a duration without a unit; write 60s, 60ms or 60m"),
        (("--set", "arrivals.rat=3"), "rate"),
        (("--duration", "0s"), "--duration 0s: a duration above 0"),
        (("--max-concurrency", "4", "--set", "arrivals.rate=5"), "--set arrivals.rate=5: the closed loop of"),
        (("--request-rate", ""), "Invalid value for '--request-rate': nothing follows it"),
        (("--slo", " "), "Invalid value for '--slo': nothing follows it"),
        (("--save-detailed", "--records", "short"), "--save-detailed reads the time of every event"),
        (("-o", "results"), "A folder is named with --output-dir"),
        (("--slo", "ttft=500"), "--slo: 'ttft=500' has no unit"),
        (("--slo", "tttft=500ms"), "--slo: 'tttft=500ms' is not understood"),
        (("--url", "127.0.0.1:8000"), "is no address of a server"),
        (("--url", "http://me:secret@host"), "must not hold a user or a password"),
        (("--processes", "0"), "neither auto nor a number"),
    ],
)
def test_options_that_cannot_be_taken(words: tuple[str, ...], said: str, cli: Cli, scenario: Write) -> None:
    ran = cli("run", scenario(), "--url", "http://127.0.0.1:9", *words)
    assert ran.code == 2
    assert said in _lines(ran)[0]
    assert "secret" not in ran.stderr


def test_a_name_that_is_mistyped_is_answered_with_the_nearest(cli: Cli) -> None:
    ran = cli("run", "chat-k", "--url", "http://127.0.0.1:9")
    assert ran.code == 2
    assert "no scenario is named 'chat-k'; the nearest is chat-ko" in _lines(ran)[0]


def test_a_folder_is_no_scenario(cli: Cli) -> None:
    ran = cli("run", ".", "--url", "http://127.0.0.1:9")
    assert ran.code == 2
    assert _lines(ran)[0] == "error: '.' is a folder, and no scenario"
    assert "./..yaml" not in ran.stderr


def test_a_key_that_is_mistyped_in_a_file_is_told_with_its_line(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("title: x\narivals: {kind: poisson, rate: 1}\n")
    ran = cli("run", str(path), "--url", "http://127.0.0.1:9")
    assert ran.code == 2
    assert f"{path}:2" in ran.stderr
    assert "arrivals" in ran.stderr


def test_a_release_that_does_not_run(cli: Cli, scenario: Write) -> None:
    ran = cli("run", scenario(), "-r", "nothing-here")
    assert ran.code == 17
    assert "release nothing-here is not running" in _lines(ran)[0]
    assert "--url" in _lines(ran)[1]


def test_a_folder_with_a_result_is_not_written_over(cli: Cli, scenario: Write, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "result.json").write_text("{}")
    ran = cli("run", scenario(), "--url", "http://127.0.0.1:9", "--output-dir", str(tmp_path / "results"))
    assert ran.code == 2
    assert "there is a result already" in _lines(ran)[0]


def test_items_that_are_empty_or_too_long_are_left_out_counted_and_said(
    cli: Cli, mock_engine: Start, tmp_path: Path
) -> None:
    def chat(text: str) -> dict[str, object]:
        return {"messages": [{"role": "user", "content": text}], "max_tokens": 4}

    bodies = [chat(f"question {number} of some words") for number in range(8)]
    bodies += [chat(""), chat("too long " * 3_000)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(body) + "\n" for body in bodies))
    path = tmp_path / "file.yaml"
    path.write_text(
        "title: From a file\narrivals: {kind: poisson, rate: 20}\nwarm_up: 0s\nwindow: 1s\n"
        "workload:\n  parts:\n    - {kind: file, name: asked, path: asked.jsonl, format: openai-jsonl}\n"
    )
    ran = cli("run", str(path), "--url", mock_engine("--max-model-len", "2048"), "--json")
    result = json.loads(ran.stdout)
    assert result["figures"]["outcomes"]["ok"] == result["figures"]["scheduled"] > 0
    remarks = " ".join(result["workload"]["remarks"])
    assert "1" in remarks
    assert "empty" in remarks
    assert "long" in remarks


def test_a_full_disk_is_told_and_the_figures_are_shown(
    cli: Cli, mock_engine: Start, scenario: Write, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    for name in ("records-0.jsonl", ".result.json.part", ".report.html.part", ".scenario.yaml.part"):
        (folder / name).symlink_to("/dev/full")
    ran = cli("run", scenario(), "--url", mock_engine(), "--output-dir", str(folder), "--json")
    result = json.loads(ran.stdout)
    assert result["figures"]["outcomes"]["ok"] == result["figures"]["scheduled"] > 0
    assert result["evidence"]["records_lost"] >= result["figures"]["scheduled"]
    warned = " ".join(_lines(ran))
    assert "records-0.jsonl: No space left on device" in warned
    assert "result.json could not be written: No space left on device (the disk is full)" in warned
    assert ran.code == result["verdict"]["exit_code"]


def test_ctrl_c_gives_a_part_of_a_result_and_says_so(
    mock_engine: Start, scenario: Write, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    words = ("run", scenario(window="60s"), "--url", mock_engine(), "--output-dir", str(folder))
    child = subprocess.Popen(
        cli_argv(*words),
        env=cli_environment(tmp_path, {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = folder / "locust.log"
    _wait_for(
        lambda: (folder / "records-0.jsonl").exists() and (folder / "records-0.jsonl").stat().st_size > 9_000
    )
    child.send_signal(signal.SIGINT)
    stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == 130, log.read_text()
    result = Ran(130, stdout, stderr, folder).result
    assert not result.complete
    assert result.figures.outcomes["ok"] > 0
    assert "PARTIAL: stopped before its end: Ctrl-C" in stdout
    assert "raise grace" not in stdout


def test_ctrl_c_in_the_warm_up_is_told_in_one_line(
    mock_engine: Start, scenario: Write, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    words = ("run", scenario(), "--warm-up", "60s", "--url", mock_engine(), "--output-dir", str(folder))
    child = subprocess.Popen(
        cli_argv(*words),
        env=cli_environment(tmp_path, {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_for((folder / "records-0.jsonl").exists)
    time.sleep(1)
    child.send_signal(signal.SIGINT)
    stdout, stderr = child.communicate(timeout=60)
    assert (child.returncode, stdout) == (130, "")
    assert "error: stopped in the warm-up (Ctrl-C): nothing was counted" in stderr
    assert not (folder / "result.json").exists()


def test_ctrl_c_before_the_load_is_told_in_one_line(scenario: Write, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        folder = tmp_path / "results"
        argv = cli_argv("run", scenario(), "--url", url, "--output-dir", str(folder))
        child = subprocess.Popen(argv, env=cli_environment(tmp_path, {}), stderr=subprocess.PIPE, text=True)
        assert child.stderr is not None
        said = child.stderr.readline()  # the load generator tells it before it connects
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            child.send_signal(signal.SIGINT)
            said += child.communicate(timeout=60)[1]
    assert f"asking {url}/v1/models" in said
    assert (child.returncode, said.count("error: ")) == (130, 1)
    assert "error: ended by Ctrl-C before anything was measured" in said
    assert "Traceback" not in said + (folder / "locust.log").read_text()


def test_a_page_that_cannot_be_written_is_named(
    cli: Cli, mock_engine: Start, scenario: Write, tmp_path: Path
) -> None:
    cli("run", scenario(), "--url", mock_engine(), "--output-dir", str(tmp_path / "results"))
    ran = cli("report", str(tmp_path / "results"), "--html", "/dev/full")
    assert (ran.code, ran.stderr.splitlines()[-1]) == (2, "error: --html /dev/full: No space left on device")


def test_a_second_ctrl_c_ends_everything_at_once(mock_engine: Start, scenario: Write, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    # Requests that never end, and a client that would wait for its report.
    words = ("run", scenario(window="60s"), "--url", mock_engine("--fault", "stall-after=1"))
    child = subprocess.Popen(
        cli_argv(*words, "--output-dir", str(folder)),
        env=cli_environment(tmp_path, {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_for(lambda: (folder / "records-0.jsonl").exists())
    time.sleep(1)
    child.send_signal(signal.SIGINT)
    time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=20)
    assert child.returncode == 130
    assert _processes_of(folder) == []


def test_a_run_whose_command_was_killed_ends_and_leaves_what_it_has(
    mock_engine: Start, scenario: Write, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    words = ("run", scenario(window="60s"), "--url", mock_engine(), "--output-dir", str(folder))
    child = subprocess.Popen(
        cli_argv(*words),
        env=cli_environment(tmp_path, {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _wait_for(lambda: (folder / "records-0.jsonl").exists())
    time.sleep(1)
    child.kill()
    child.wait()
    _wait_for((folder / "result.json").exists)
    result = Ran(0, "", "", folder).result
    assert result.stopped_because == "whoever started the run is gone"
    _wait_for(lambda: not _processes_of(folder))


def test_prompts_that_the_server_cannot_take_are_refused_before_the_load(
    cli: Cli, mock_engine: Start, scenario: Write
) -> None:
    ran = cli("run", scenario(), "--url", mock_engine("--max-model-len", "50"), "--processes", "2")
    assert ran.code == 2
    assert "do not fit into the 50" in _lines(ran)[0]


def test_rounds_are_compared_and_results_shown_again(
    cli: Cli, mock_engine: Start, scenario: Write, tmp_path: Path
) -> None:
    path, folders = scenario(window="1s"), [str(tmp_path / name) for name in ("before", "after")]
    for folder, ttft in zip(folders, ("20", "80"), strict=True):
        cli("run", path, "--url", mock_engine("--ttft-ms", ttft), "--output-dir", folder)
    compared = cli("compare", *folders, "--json")
    (found,) = json.loads(compared.stdout)
    ttft_sched = next(it for it in found["differences"] if it["name"].startswith("ttft_sched"))
    assert ttft_sched["direction"] == "worse"
    # 3, unless the machine was too busy for the client to be believed.
    assert compared.code in (3, 4)
    page = tmp_path / "both.html"
    shown = cli("report", *folders, "--html", str(page))
    assert shown.code == 0
    assert page.read_text().startswith("<!doctype html>")
    again = cli("report", folders[0])
    assert "requests/s" in again.stdout
    missing = cli("report", str(tmp_path))
    assert missing.code == 2
    assert "result.json: No such file" in missing.stderr


def test_a_knee_is_searched_by_whole_runs(
    cli: Cli, mock_engine: Start, scenario: Write, tmp_path: Path
) -> None:
    ran = cli(
        "knee", scenario(window="1s"), "--url", mock_engine(), "--slo", "ttft=20s", "--lowest", "10",
        "--highest", "20", "--output-dir", str(tmp_path / "results"), "--json",
    )  # fmt: skip
    found = json.loads(ran.stdout)
    assert (ran.folder / "rate-10" / "result.json").exists()
    if ran.code == 0:
        # One of them twice, where the machine was busy for a moment.
        assert sorted({run["rate"] for run in found["runs"]}) == [10, 20]
        assert (found["kept"], found["missed"]) == (20, None)
    else:  # the machine was too busy for the client to be believed
        assert ran.code == 4
        assert "not to be believed" in found["ended_because"]


def test_a_knee_without_a_promise_is_refused(cli: Cli, scenario: Write) -> None:
    ran = cli("knee", scenario(), "--url", "http://127.0.0.1:9")
    assert ran.code == 2
    assert "--slo" in _lines(ran)[1]


def _processes_of(folder: Path) -> list[str]:
    found = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True, check=False)
    return found.stdout.split()


def _wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)
