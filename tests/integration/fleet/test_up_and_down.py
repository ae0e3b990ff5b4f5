"""The life of a release, as its user sees it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

Wait = Callable[..., Any]


def test_up_status_chat_logs_down(release: Any) -> None:
    up = release.run("up")
    assert up.returncode == 0, up.stderr
    assert f"Base URL   {release.url}/v1" in up.stdout
    own = re.search(r"tri is ready after [\d.]+ s: [\d.]+ s the engine, ([\d.]+) s tri-serve", up.stdout)
    assert own is not None
    assert float(own[1]) < 10
    assert max(len(line) for line in up.stderr.splitlines()) <= 80

    status = release.run("status")
    assert status.returncode == 0
    assert status.stdout.startswith(
        f"tri: ready\n  url         {release.url}/v1\n  model       tri-tiny (tiny:bf16)"
    )
    assert max(len(line) for line in status.stdout.splitlines()) <= 80

    chat = release.run("chat", "--max-tokens", "5", "hello")
    assert chat.returncode == 0
    assert len(chat.stdout.strip()) > 3

    logs = release.run("logs", "replica-0")
    assert "mock vllm starts" in logs.stdout

    down = release.run("down")
    assert (down.returncode, down.stdout) == (0, "tri is stopped\n")
    assert release.processes() == ()


def test_the_printed_curl_line_works_as_it_is(release: Any) -> None:
    stdout = release.up().stdout
    curl = stdout[stdout.index("curl ") : stdout.index("\n\n", stdout.index("curl "))]
    answer = subprocess.run(["sh", "-c", curl], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout)["choices"][0]["message"]["content"]


def test_the_printed_python_snippet_works_as_it_is(release: Any) -> None:
    stdout = release.up().stdout
    snippet = stdout[stdout.index("from openai") : stdout.index("Next:")]
    answer = subprocess.run(
        [sys.executable, "-c", snippet],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip()


def test_up_again_with_the_same_spec_does_nothing(release: Any) -> None:
    release.up()
    before = release.state()
    again = release.up()
    assert again.stdout == f"tri runs this spec already: {release.url}/v1 (tri-tiny)\n"
    after = release.state()
    assert [r["pid"] for r in after["replicas"]] == [r["pid"] for r in before["replicas"]]
    assert after["gateways"][0]["pid"] == before["gateways"][0]["pid"]


def test_down_twice_is_no_error(release: Any) -> None:
    release.up()
    assert release.run("down").stdout == "tri is stopped\n"
    again = release.run("down")
    assert (again.returncode, again.stdout) == (0, "tri was not running\n")


def test_status_chat_and_restart_of_nothing_say_so(release: Any) -> None:
    for command in ("status", "chat", "restart"):
        done = release.run(command, stdin="hi")
        assert done.returncode == 17, done
        assert done.stderr.startswith("error: release tri is not running\n"), done


def test_a_state_holds_no_secret_and_files_are_private(release: Any) -> None:
    release.up()
    key = json.loads((release.root / "gateway.json").read_text())["engine_key"]
    assert len(key) > 30
    holders = [p.name for p in release.root.rglob("*") if p.is_file() and key in p.read_text()]
    assert holders == ["gateway.json"]
    modes = {p.name: p.stat().st_mode & 0o777 for p in release.root.iterdir() if not p.is_dir()}
    assert set(modes.values()) == {0o600}, modes
    for pid in release.processes():
        assert key.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_two_replicas_share_the_work(release: Any) -> None:
    release.write_spec(fleet={"replicas": 2})
    release.up()
    state = release.state()
    assert [r["name"] for r in state["replicas"]] == ["replica-0", "replica-1"]
    assert len({r["port"] for r in state["replicas"]}) == 2
    assert release.ask().status_code == 200


def test_a_second_release_runs_beside_the_first(release: Any) -> None:
    other = release.beside("other")
    release.up()
    other.up()
    table = subprocess.run(
        [sys.executable, "-P", "-m", "tri_serve.cli.main", "status"],
        env=release.environ,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [line.split()[:2] for line in table.splitlines()[1:]] == [["other", "ready"], ["tri", "ready"]]
    assert other.run("down").stdout == "other is stopped\n"
    assert release.ask().status_code == 200


def test_a_taken_port_is_refused_with_its_holder_and_nothing_starts(release: Any) -> None:
    with socket.create_server(("127.0.0.1", release.port)):
        done = release.run("up")
    assert done.returncode == 14
    assert f"port {release.port} on 127.0.0.1 is taken by pid {os.getpid()}" in done.stderr
    assert "--set gateway.port=" in done.stderr
    assert release.processes() == ()


def test_everything_wrong_is_said_at_once(release: Any) -> None:
    release.write_spec(
        gateway={"host": "0.0.0.0"}, engine={"command": ["/no/such/vllm"]}, model={"source": "/no/checkpoint"}
    )
    done = release.run("up")
    assert done.returncode == 2
    for words in ("3 things", "no client key is set", "/no/such/vllm", "/no/checkpoint"):
        assert words in done.stderr


def test_an_engine_that_does_not_start_is_reported_with_its_last_words(release: Any) -> None:
    release.write_spec(engine={"env": {"MOCK_EXIT": "3"}})
    done = release.run("up")
    assert done.returncode == 15
    assert "RuntimeError: no kernel for this checkpoint" in done.stderr
    assert release.processes() == ()
    assert release.run("status").returncode == 17


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_start_leaves_nothing(release: Any, wait: Wait, number: signal.Signals) -> None:
    release.write_spec(engine={"env": {"MOCK_START_SECONDS": "60"}})
    with release.popen("up") as up:
        wait(lambda: len(release.processes()) >= 5)  # up, supervisor, guards, gateway, engine
        os.killpg(up.pid, number)
        _, err = up.communicate(timeout=20)
    assert up.returncode == 130
    assert "nothing is left running" in err
    assert release.processes() == ()


def test_a_start_that_takes_too_long_is_given_up(release: Any) -> None:
    release.write_spec(engine={"env": {"MOCK_START_SECONDS": "60"}})
    done = release.run("up", "--timeout", "2")
    assert done.returncode == 17
    assert "was not ready within 2 s" in done.stderr
    assert release.processes() == ()


def test_two_ups_at_once_do_not_race(release: Any, wait: Wait) -> None:
    release.write_spec(engine={"env": {"MOCK_START_SECONDS": "2"}})
    with release.popen("up") as first:
        wait(lambda: (release.root / "up.lock").exists())
        time.sleep(0.3)
        second = release.run("up")
        first.communicate(timeout=30)
    assert first.returncode == 0
    assert second.returncode == 17
    assert "another `tri-serve up` of release tri is at work" in second.stderr


def test_running_answers_may_finish_before_the_end(release: Any) -> None:
    release.write_spec(engine={"env": {"MOCK_FLAGS": "--itl-ms 100"}})
    release.up()
    text: list[bytes] = []

    def stream() -> None:
        with release.ask(body={"stream": True, "max_tokens": 20}, stream=True) as answer:
            text.extend(answer.iter_content(chunk_size=None))

    reader = threading.Thread(target=stream)
    reader.start()
    time.sleep(0.7)
    down = release.run("down")
    reader.join(10)
    assert "1 request running" in down.stderr
    assert b"".join(text).rstrip().endswith(b"data: [DONE]")
    assert release.processes() == ()


def test_down_with_a_timeout_does_not_wait_longer(release: Any) -> None:
    release.write_spec(engine={"env": {"MOCK_FLAGS": "--itl-ms 1000"}}, gateway={"timeouts": {"drain": 60}})
    release.up()
    with release.ask(body={"stream": True, "max_tokens": 60}, stream=True) as answer:
        next(answer.iter_content(chunk_size=None))
        begun = time.monotonic()
        down = release.run("down", "--timeout", "1")
    assert down.returncode == 0
    assert time.monotonic() - begun < 20
    assert release.processes() == ()


def test_the_foreground_tells_the_service_manager_and_stops_on_sigterm(
    release: Any, tmp_path: Path, wait: Wait
) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(20)
        with release.popen("up", "--foreground", environ={"NOTIFY_SOCKET": address}) as up:
            assert manager.recv(100) == b"READY=1"
            assert release.ask().status_code == 200
            up.terminate()
            assert manager.recv(100) == b"STOPPING=1"
            _, err = up.communicate(timeout=20)
    assert up.returncode == 0
    assert "replica-0: ready" in err
    assert "replica-0: ready" in release.run("logs", "supervisor").stdout
    assert release.processes() == ()


def test_a_foreground_fleet_can_be_changed_from_elsewhere(release: Any, wait: Wait) -> None:
    with release.popen("up", "--foreground") as up:
        wait(lambda: release.run("status").returncode == 0)
        assert "is changed" in release.up("--set", "gateway.workers=2").stdout
        assert len(release.state()["gateways"][0]["workers"]) == 2
        up.terminate()
        up.communicate(timeout=20)
    assert up.returncode == 0


def test_the_foreground_ends_with_the_error_that_kept_it_from_starting(release: Any) -> None:
    release.write_spec(engine={"env": {"MOCK_EXIT": "3"}})
    done = release.run("up", "--foreground")
    assert done.returncode == 15
    assert "no kernel for this checkpoint" in done.stderr
    assert release.processes() == ()


def test_a_state_path_too_long_for_sockets_works(release: Any, tmp_path: Path) -> None:
    release.environ["XDG_STATE_HOME"] = str(tmp_path / ("deep" * 30))
    release.up()
    assert release.state()["ready"] is True
    assert release.run("down").returncode == 0
    assert list(Path(release.environ["XDG_RUNTIME_DIR"]).iterdir()) == []


def test_client_keys_are_asked_for_and_told_apart(release: Any) -> None:
    key = release.popen("keys", "create", "alice").communicate()[0].strip()
    up = release.up(TRI_SERVE_API_KEYS="from-the-environment")
    assert "$TRI_SERVE_API_KEY" in up.stdout
    assert key not in up.stdout + up.stderr
    refused = release.run("chat", "hi")
    assert refused.returncode == 18
    assert "(401)" in refused.stderr
    assert "TRI_SERVE_API_KEY" in refused.stderr
    assert release.run("chat", "--max-tokens", "3", "hi", TRI_SERVE_API_KEY=key).returncode == 0
    assert release.ask(headers={"authorization": "Bearer from-the-environment"}).status_code == 200
    files = [p for p in release.root.rglob("*") if p.is_file()]
    assert not [p for p in files if "from-the-environment" in p.read_text() or key in p.read_text()]


def test_a_key_disabled_later_is_refused_after_a_restart_of_the_gateway(release: Any) -> None:
    release.popen("keys", "create", "alice").communicate()
    key = release.popen("keys", "create", "bob").communicate()[0].strip()
    release.up()
    assert release.ask(headers={"authorization": f"Bearer {key}"}).status_code == 200
    release.popen("keys", "disable", "bob").communicate()
    assert release.run("restart", "gateway").returncode == 0
    assert release.ask(headers={"authorization": f"Bearer {key}"}).status_code == 401


def test_an_open_address_whose_keys_are_gone_is_not_opened_to_all_by_a_restart(release: Any) -> None:
    release.popen("keys", "create", "alice").communicate()
    release.write_spec(gateway={"host": "0.0.0.0"})
    release.up()
    (Path(release.environ["XDG_DATA_HOME"]) / "tri-serve" / "keys.json").unlink()
    done = release.run("restart", "gateway")
    assert done.returncode == 2
    assert "no client key is set" in done.stderr
    assert release.ask().status_code == 401


def test_the_last_key_can_be_taken_back_and_that_lets_nobody_in(release: Any) -> None:
    key = release.popen("keys", "create", "alice").communicate()[0].strip()
    release.up()
    release.popen("keys", "disable", "alice").communicate()
    assert release.run("restart", "gateway").returncode == 0
    assert release.ask(headers={"authorization": f"Bearer {key}"}).status_code == 401
    assert release.ask().status_code == 401
    assert "every client key is disabled: nobody is let in" in release.run("status").stdout


def test_the_spec_as_applied_is_kept(release: Any) -> None:
    release.up()
    applied = yaml.safe_load((release.root / "spec.yaml").read_text())
    assert applied["gateway"]["port"] == release.port
    assert applied["model"]["served_name"] == "tri-tiny"


def test_piped_text_is_the_message(release: Any) -> None:
    release.up()
    done = release.run("chat", "--max-tokens", "3", stdin="요약해 주세요\n")
    assert (done.returncode, bool(done.stdout.strip())) == (0, True)
    assert release.run("chat", stdin="").returncode == 2


def test_chat_says_a_servers_error_in_one_line(release: Any) -> None:
    release.up()
    done = release.run("chat", "--model", "nobody", "hi")
    assert done.returncode == 18
    assert "(404)" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_admin_port_of_the_status_serves_metrics(release: Any) -> None:
    release.up()
    release.ask()
    port = release.state()["gateways"][0]["admin_port"]
    assert "tri_gateway_requests_total" in requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
