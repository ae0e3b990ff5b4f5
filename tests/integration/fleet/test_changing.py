"""``up`` with another spec: what differs is shown, and done with as little disturbance as it takes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from tri_serve.process.ports import bind_listener, free_port

Wait = Callable[..., Any]


@contextmanager
def asking(release: Any) -> Iterator[list[object]]:
    """One request after the other meanwhile, each on a new connection; the list gets every outcome."""
    outcomes: list[object] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                outcomes.append(release.ask().status_code)
            except requests.exceptions.RequestException as error:
                outcomes.append(repr(error))
            time.sleep(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield outcomes
    finally:
        done.set()
        thread.join(20)


def test_a_gateway_setting_is_changed_without_a_failed_request(release: Any) -> None:
    release.up()
    before = release.state()
    with asking(release) as outcomes:
        done = release.up("--set", "gateway.limits.body_bytes=2048")
        time.sleep(0.3)
    assert "gateway.limits.body_bytes: 1048576 -> 2048" in done.stdout
    assert "replace the gateway process; its port stays open" in done.stdout
    assert set(outcomes) == {200}
    after = release.state()
    assert after["gateway"]["pid"] != before["gateway"]["pid"]
    assert after["replicas"][0]["pid"] == before["replicas"][0]["pid"]
    assert release.ask(body={"padding": "x" * 3000}).status_code == 413


def test_a_running_answer_outlives_the_gateway_that_gives_it(release: Any) -> None:
    release.write_spec(engine={"env": {"MOCK_FLAGS": "--itl-ms 50"}})
    release.up()
    with release.ask(body={"stream": True, "max_tokens": 60}, stream=True) as answer:
        chunks = answer.iter_content(chunk_size=None)
        first = next(chunks)
        assert release.run("restart", "gateway").returncode == 0
        rest = b"".join(chunks)
    assert (first + rest).rstrip().endswith(b"data: [DONE]")


def test_another_engine_setting_replaces_the_engines_one_by_one(release: Any) -> None:
    release.write_spec(fleet={"replicas": 2})
    release.up()
    before = release.state()
    with asking(release) as outcomes:
        done = release.up("--set", "engine.max_num_seqs=7")
    assert "replace the engines, one after the other" in done.stdout
    assert set(outcomes) == {200}
    after = release.state()
    assert after["gateway"]["pid"] == before["gateway"]["pid"]
    assert not {r["pid"] for r in before["replicas"]} & {r["pid"] for r in after["replicas"]}


def test_an_engine_setting_that_does_not_work_is_taken_back(release: Any, wait: Wait) -> None:
    release.up()
    done = release.run("up", "--set-string", "engine.env.MOCK_EXIT=3")
    assert done.returncode == 15
    assert "no kernel for this checkpoint" in done.stderr
    assert "going back" in done.stderr
    wait(lambda: release.replica()["phase"] == "ready")
    assert release.ask().status_code == 200
    assert "runs this spec already" in release.up().stdout


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_a_gateway_that_does_not_start_takes_the_engines_change_back_too(
    release: Any, wait: Wait, replicas: int
) -> None:
    release.up("--set", "fleet.replicas=2")
    with bind_listener("127.0.0.1", 0) as taken:
        done = release.run(
            *("up", "--set", "model.served_name=other", "--set", f"fleet.replicas={replicas}"),
            *("--set", f"gateway.admin_port={taken.getsockname()[1]}"),
        )
    assert done.returncode == 16
    assert "going back" in done.stderr
    wait(lambda: [r["phase"] for r in release.state()["replicas"]] == ["ready"] * 2)
    wait(lambda: release.state()["gateway"]["ready"])
    assert [release.ask().status_code for _ in range(4)] == [200] * 4
    assert "runs this spec already" in release.up("--set", "fleet.replicas=2").stdout


@pytest.mark.parametrize(("first", "second"), [(1, 3), (3, 1)])
def test_more_and_fewer_replicas(release: Any, first: int, second: int) -> None:
    release.up("--set", f"fleet.replicas={first}")
    kept = release.replica()["pid"]
    with asking(release) as outcomes:
        release.up("--set", f"fleet.replicas={second}")
    assert set(outcomes) == {200}
    replicas = release.state()["replicas"]
    assert [r["phase"] for r in replicas] == ["ready"] * second
    assert replicas[0]["pid"] == kept


def test_the_gateway_moves_to_another_port(release: Any) -> None:
    release.up()
    old = release.url
    release.port = free_port("127.0.0.1")
    release.write_spec()
    assert "move the gateway to the new address" in release.up().stdout
    assert release.ask().status_code == 200
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(f"{old}/health", timeout=2)


def test_the_gateway_moves_to_another_address_on_the_same_port(release: Any) -> None:
    release.up()
    release.up("--set", "gateway.host=0.0.0.0", "--set", "gateway.allow_unauthenticated=true")
    assert release.ask().status_code == 200
    assert requests.get(f"http://127.0.0.2:{release.port}/health", timeout=2).status_code == 200


def test_a_gateway_that_moved_is_still_restarted_when_it_dies(release: Any, wait: Wait) -> None:
    release.up()
    release.up("--set", "gateway.host=0.0.0.0", "--set", "gateway.allow_unauthenticated=true")
    pid = release.state()["gateway"]["pid"]
    os.kill(pid, signal.SIGKILL)
    wait(lambda: release.state()["gateway"]["ready"] and release.state()["gateway"]["pid"] != pid)
    assert release.ask().status_code == 200


def test_a_move_that_does_not_work_is_taken_back(release: Any) -> None:
    release.up()
    with bind_listener("127.0.0.1", 0) as taken:
        admin = taken.getsockname()[1]
        done = release.run(
            *("up", "--set", "gateway.host=0.0.0.0", "--set", "gateway.allow_unauthenticated=true"),
            *("--set", f"gateway.admin_port={admin}"),
        )
    assert done.returncode == 16
    assert release.ask().status_code == 200
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(f"http://127.0.0.2:{release.port}/health", timeout=2)


def test_a_move_to_a_taken_port_changes_nothing(release: Any) -> None:
    other = release.beside("other")
    other.up()
    release.up()
    done = release.run("up", "--set", f"gateway.port={other.port}")
    assert done.returncode == 14
    assert f"port {other.port} on 127.0.0.1 is taken" in done.stderr
    assert release.ask().status_code == 200


def test_a_fixed_admin_port_survives_a_change_of_the_gateway(release: Any) -> None:
    admin = free_port("127.0.0.1")
    release.write_spec(gateway={"admin_port": admin})
    release.up()
    release.up("--set", "gateway.workers=2")
    state = release.state()
    assert (state["gateway"]["admin_port"], state["gateway"]["workers"]) == (admin, 2)
    assert release.ask().status_code == 200


def test_restart_renews_every_engine(release: Any) -> None:
    release.write_spec(fleet={"replicas": 2})
    release.up()
    before = {r["pid"] for r in release.state()["replicas"]}
    assert release.run("restart").returncode == 0
    assert not before & {r["pid"] for r in release.state()["replicas"]}


def test_restart_of_what_is_not_there_names_what_is(release: Any) -> None:
    release.up()
    done = release.run("restart", "replica-7")
    assert done.returncode == 17
    assert "it has: gateway, replica-0" in done.stderr
