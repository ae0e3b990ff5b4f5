"""Workers and first processes that die, drains, and the socket that outlives them all."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from .conftest import Gateway, Mock, chat, events_of, spawn_gateway, wait_until


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or while it was read
        return False


def test_a_killed_worker_is_replaced_and_new_connections_wait_for_it(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock())
    assert chat(gateway).status_code == 200
    (worker,) = gateway.workers()
    os.kill(worker, signal.SIGKILL)
    assert chat(gateway).status_code == 200
    assert gateway.workers() != [worker]
    assert gateway.metric("tri_gateway_worker_restarts_total") == 1
    # What the dead worker had counted is not lost, up to its last report.
    assert gateway.metric("tri_gateway_requests_total", status="200") >= 1


def test_a_stuck_worker_is_told_ended_and_replaced(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock(), worker_silence=2.5)
    (worker,) = gateway.workers()
    os.kill(worker, signal.SIGSTOP)
    wait_until(lambda: gateway.status["workers"][0]["silent_seconds"] >= 1.0)
    assert chat(gateway).status_code == 200  # it waited for the successor
    assert gateway.workers() != [worker]
    assert not alive(worker)
    assert gateway.status["workers"][0]["silent_seconds"] < 1.5


def test_a_worker_that_is_held_up_for_a_moment_is_kept(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock(), worker_silence=8.0)
    workers = gateway.workers()
    os.kill(workers[0], signal.SIGSTOP)
    time.sleep(2.0)
    os.kill(workers[0], signal.SIGCONT)
    assert chat(gateway).status_code == 200
    assert gateway.workers() == workers


def test_workers_are_not_blamed_for_a_first_process_that_was_stopped(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock(), worker_silence=2.5)
    workers = gateway.workers()
    os.kill(gateway.process.pid, signal.SIGSTOP)
    time.sleep(5.0)
    os.kill(gateway.process.pid, signal.SIGCONT)
    time.sleep(2.5)
    assert gateway.workers() == workers


def test_a_killed_workers_neighbour_keeps_its_streams(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock("--itl-ms", "40"), workers=2)
    streams = [chat(gateway, stream=True, tokens=50) for _ in range(8)]
    wait_until(lambda: sum(w["in_flight"] for w in gateway.status["workers"]) == 8)
    victim, survivor = sorted(gateway.status["workers"], key=lambda worker: worker["in_flight"])
    os.kill(victim["pid"], signal.SIGKILL)
    whole = 0
    for stream in streams:
        try:
            whole += events_of(stream)[-1] == b"data: [DONE]"
        except requests.exceptions.RequestException:
            continue
    assert whole == survivor["in_flight"]


def test_workers_end_when_the_first_process_is_gone(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock(), workers=2)
    workers = gateway.workers()
    gateway.process.kill()
    gateway.process.wait()
    wait_until(lambda: not any(map(alive, workers)), what="the workers' end")


def test_connections_wait_for_the_next_gateway_on_the_same_socket(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock())
    (worker,) = gateway.workers()
    gateway.process.kill()
    gateway.process.wait()
    wait_until(lambda: not alive(worker))
    answers: list[int] = []
    client = threading.Thread(target=lambda: answers.append(chat(gateway).status_code))
    client.start()
    time.sleep(0.5)
    assert not answers
    successor = spawn_gateway(gateway.directory, gateway.listener, gateway.config)
    client.join(15)
    successor.stop()
    assert answers == [200]


def connect_and_ask(address: tuple[str, int]) -> str:
    """One fresh connection with one request: how it ended."""
    try:
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            while part := connection.recv(4096):
                answer += part
    except ConnectionRefusedError:
        return "refused"
    except (ConnectionResetError, BrokenPipeError):
        return "lost"
    return "answered" if answer.startswith(b"HTTP/1.1 200 ") else "lost"


def connect_while(address: tuple[str, int], during: Callable[[], None], clients: int = 50) -> Counter[str]:
    """How fresh connections of ``clients`` clients ended, while and after ``during`` ran."""
    over = threading.Event()

    def client() -> Counter[str]:
        seen: Counter[str] = Counter()
        while not over.is_set():
            seen[connect_and_ask(address)] += 1
        seen[connect_and_ask(address)] += 1
        return seen

    with ThreadPoolExecutor(clients) as threads:
        running = [threads.submit(client) for _ in range(clients)]
        try:
            during()
        finally:
            over.set()
        return sum((future.result() for future in running), Counter())


def test_a_worker_killed_under_connecting_clients_refuses_nobody_and_loses_only_its_own(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock(), workers=2)
    lost_at_most = 0

    def kill() -> None:
        nonlocal lost_at_most
        for _ in range(3):
            wait_until(lambda: len(gateway.workers()) == 2, 30.0, what="two workers")
            victim = gateway.workers()[0]
            lost_at_most += 50
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda gone=victim: not alive(gone))  # type: ignore[misc]
            time.sleep(0.3)

    seen = connect_while(gateway.address, kill)
    assert seen["refused"] == 0, seen
    assert seen["lost"] <= lost_at_most
    assert seen["answered"] > 100, seen


def test_a_first_process_killed_under_connecting_clients_loses_no_connection_and_no_stream(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock("--itl-ms", "20"), workers=2, orphan_drain=60.0)
    streams = [chat(gateway, stream=True, tokens=300) for _ in range(8)]
    workers = gateway.workers()
    successors: list[Gateway] = []

    def kill() -> None:
        time.sleep(0.2)
        gateway.process.kill()
        gateway.process.wait()
        time.sleep(0.3)
        assert any(map(alive, workers))  # they have their streams to end
        successors.append(spawn_gateway(gateway.directory, gateway.listener, gateway.config))
        wait_until(successors[0].is_ready, 30.0, what="the successor")

    seen = connect_while(gateway.address, kill)
    try:
        assert set(seen) == {"answered"}, seen
        for stream in streams:
            assert events_of(stream)[-1] == b"data: [DONE]"
        wait_until(lambda: not any(map(alive, workers)), 30.0, what="the orphans' end")
        assert chat(successors[0]).status_code == 200
    finally:
        successors[0].stop()


def test_orphaned_workers_end_what_runs_too_long_by_an_error_event_and_idle_connections_cleanly(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock("--itl-ms", "20"), orphan_drain=1.5)
    stream = chat(gateway, stream=True, tokens=2000)
    (worker,) = gateway.workers()
    with socket.create_connection(gateway.address, timeout=10) as idle:
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in idle.recv(4096)
        gateway.process.kill()
        gateway.process.wait()
        assert idle.recv(1) == b""  # an end, no reset
    assert b"shutting down" in events_of(stream)[-1]
    wait_until(lambda: not alive(worker), what="the orphan's end")


def test_a_worker_without_time_ends_its_streams_at_once_by_an_error_event(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock("--itl-ms", "20"))
    stream = chat(gateway, stream=True, tokens=2000)
    gateway.process.kill()
    gateway.process.wait()
    killed = time.monotonic()
    assert b"shutting down" in events_of(stream)[-1]
    assert time.monotonic() - killed < 1


def test_a_connection_accepted_just_before_a_drain_is_still_served(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock())
    with socket.create_connection(gateway.address, timeout=10) as fresh:
        wait_until(lambda: sum(w["connections"] for w in gateway.status["workers"]) == 1)
        gateway.admin("POST", "/drain")
        time.sleep(0.2)
        fresh.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert fresh.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert gateway.process.wait(10) == 0


def test_a_drain_lets_streams_end_and_takes_no_new_work(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock("--itl-ms", "50"), workers=2)
    with socket.create_connection(gateway.address, timeout=10) as idle:
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in idle.recv(4096)
        stream = chat(gateway, stream=True, tokens=30)
        wait_until(lambda: sum(w["in_flight"] for w in gateway.status["workers"]) == 1)
        gateway.process.send_signal(signal.SIGTERM)
        assert idle.recv(1) == b""
    assert events_of(stream)[-1] == b"data: [DONE]"
    assert gateway.process.wait(10) == 0


def test_a_drain_has_an_end_and_says_so_in_the_stream(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock("--itl-ms", "100"), timeouts={"drain": 1.0})
    stream = chat(gateway, stream=True, tokens=1000)
    waiting: list[int] = []
    client = threading.Thread(target=lambda: waiting.append(chat(gateway, fault="stall-before").status_code))
    client.start()
    wait_until(lambda: sum(w["in_flight"] for w in gateway.status["workers"]) == 2)
    started = time.monotonic()
    assert gateway.admin("POST", "/drain")[0] == 200
    assert b"shutting down" in events_of(stream)[-1]
    client.join(10)
    assert waiting == [503]
    assert gateway.process.wait(10) == 0
    assert time.monotonic() - started < 15


def test_the_metrics_port_tells_and_changes_nothing(pair: tuple[Gateway, Mock, Mock]) -> None:
    gateway, *_ = pair
    base = f"http://127.0.0.1:{gateway.status['admin_port']}"
    assert "tri_gateway_requests_total" in requests.get(f"{base}/metrics", timeout=5).text
    assert requests.put(f"{base}/roster", json={"replicas": []}, timeout=5).status_code == 404
    assert requests.post(f"{base}/drain", timeout=5).status_code == 404
    assert gateway.status["ready"]


def test_the_admin_socket_is_its_owners_alone(pair: tuple[Gateway, Mock, Mock]) -> None:
    gateway, *_ = pair
    assert Path(gateway.config["admin_socket"]).stat().st_mode & 0o777 == 0o600


BAD_STARTS = {
    "no file": ('{"never": "written"}', "cannot read", True),
    "no JSON": ("{", "Invalid JSON", False),
    "unknown key": ('{"release":"a","served_models":["m"],"admin_socket":"/tmp/x","nope":1}', "nope", False),
}


@pytest.mark.parametrize("name", BAD_STARTS)
def test_a_bad_configuration_is_one_line_and_exit_16(tmp_path: Path, name: str) -> None:
    text, expected, missing = BAD_STARTS[name]
    file = tmp_path / "gateway.json"
    if not missing:
        file.write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = subprocess.run(
            [
                *(sys.executable, "-m", "tri_serve.gateway", "--config", str(file)),
                "--listen-fd",
                str(listener.fileno()),
            ],
            pass_fds=(listener.fileno(),),
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert result.returncode == 16
    assert result.stderr.startswith("error: ")
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_descriptor_that_does_not_listen_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "gateway.json"
    file.write_text('{"release":"a","served_models":["m"],"admin_socket":"/nonexistent/x"}')
    result = subprocess.run(
        [*(sys.executable, "-m", "tri_serve.gateway", "--config", str(file)), "--listen-fd", "0"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 16
    assert "--listen-fd 0" in result.stderr
