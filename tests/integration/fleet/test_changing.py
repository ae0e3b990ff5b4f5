"""``up`` with another spec: what differs is shown, and done with as little disturbance as it takes."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tri_serve.errors import LaunchError
from tri_serve.fleet import detached
from tri_serve.fleet.desired import Desired
from tri_serve.fleet.fleet import Fleet
from tri_serve.fleet.own_children import OwnChildren
from tri_serve.fleet.prepare import Prepared, prepare
from tri_serve.fleet.release import ReleasePaths
from tri_serve.launch.config import LaunchConfig
from tri_serve.process.ports import bind_listener, free_port
from tri_serve.process.strays import MARKER
from tri_serve.spec.load import load_spec
from tri_serve.spec.models import Spec

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
    assert after["gateways"][0]["pid"] != before["gateways"][0]["pid"]
    assert after["replicas"][0]["pid"] == before["replicas"][0]["pid"]
    assert release.ask(body={"padding": "x" * 3000}).status_code == 413


@pytest.mark.parametrize(
    ("settings", "exit_code", "words"),
    [
        (['engine.extra_args=["--port","9"]'], 12, "--port cannot be given"),
        (["model.quantization=gptq"], 11, "gptq"),
        (["model.max_model_len=999999"], 10, "999,999"),
        (["engine.cpu_kv_cache_gib=1024"], 14, "1024 GiB of it KV cache"),
        (["engine.command=null", "engine.python=/bin/false"], 13, "/bin/false has no vllm"),
    ],
)
def test_what_cannot_work_is_refused_before_an_engine_ends(
    release: Any, settings: list[str], exit_code: int, words: str
) -> None:
    release.up()
    before = release.state()
    done = release.run("up", *(word for setting in settings for word in ("--set", setting)))
    assert done.returncode == exit_code
    assert words in done.stderr
    assert "nothing is changed: tri goes on as it was" in done.stderr
    after = release.state()
    assert after["replicas"][0]["pid"] == before["replicas"][0]["pid"]
    assert after["gateways"][0]["pid"] == before["gateways"][0]["pid"]


def test_the_supervisor_refuses_what_no_engine_takes_whoever_asks(release: Any) -> None:
    release.up()
    before = release.replica()["pid"]
    file = release.folder / "tri-serve.yaml"
    spec = load_spec(None, [file], {}, sets=['engine.extra_args=["--port","9"]']).spec
    with pytest.raises(LaunchError, match="--port cannot be given"):
        detached.apply(
            ReleasePaths(release.root), Desired(spec=spec), preview=False, progress=lambda _line: None
        )
    assert release.replica()["pid"] == before


def test_an_engine_that_cannot_be_made_is_given_up_at_once_and_the_old_one_comes_back(
    release: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if something were found out only when the engine is to be started."""

    class Unmakeable(Prepared):
        def launch(self, *, port: int, api_key: str, **_: Any) -> LaunchConfig:
            raise LaunchError(f"no engine takes this at port {port} with {len(api_key)} characters")

    def prepared(spec: Spec) -> Prepared:
        found = prepare(spec)
        if spec.engine.max_num_seqs != 7:
            return found
        return Unmakeable(found.spec, found.device, found.environment, found.checkpoint)

    for name, value in release.environ.items():
        monkeypatch.setenv(name, value)
    file = release.folder / "tri-serve.yaml"
    old = Desired(spec=load_spec(None, [file], {}).spec)
    new = Desired(spec=load_spec(None, [file], {}, sets=["engine.max_num_seqs=7"]).spec)
    paths = ReleasePaths(release.root)
    paths.create()

    async def scenario() -> None:
        fleet = Fleet(
            paths,
            old,
            OwnChildren(paths, prepare_spec=prepared),
            token=os.environ[MARKER],
            prepare_spec=prepared,
        )
        try:
            await fleet.start()
            await fleet.wait_started()
            with pytest.raises(LaunchError, match="no engine takes this"):
                await asyncio.wait_for(fleet.apply(new, lambda _line: None), 15)
            assert fleet.spec == old.spec
            async with asyncio.timeout(15):
                while not ((state := await fleet.state()).ready and state.replicas[0].phase == "ready"):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert await asyncio.to_thread(lambda: release.ask().status_code) == 200
        finally:
            await fleet.stop(5.0, lambda _line: None)

    asyncio.run(scenario())


def test_ctrl_c_ends_the_command_and_not_the_change(release: Any, wait: Wait) -> None:
    release.up()
    with release.popen("up", "--set-string", "engine.env.MOCK_START_SECONDS=2") as up:
        wait(lambda: release.replica()["phase"] == "starting")
        os.killpg(up.pid, signal.SIGINT)
        _, err = up.communicate(timeout=20)
    assert up.returncode == 130
    assert err.endswith("the change goes on in the background; tri-serve status shows it\n")
    wait(lambda: release.state()["phase"] == "running" and release.replica()["phase"] == "ready")
    again = release.up("--set-string", "engine.env.MOCK_START_SECONDS=2")
    assert "runs this spec already" in again.stdout
    assert "raised exception" not in (release.root / "logs" / "supervisor.log").read_text()


def test_a_restart_that_fails_ends_with_the_error(release: Any, tmp_path: Path) -> None:
    poison = tmp_path / "poison"
    release.write_spec(engine={"env": {"MOCK_POISON": str(poison)}})
    release.up()
    poison.touch()
    done = release.run("restart", "replica-0")
    assert done.returncode == 15
    assert "no kernel for this checkpoint" in done.stderr
    assert "replica-0: engine starting" in done.stderr


def test_a_renewed_gateway_counts_from_its_own_start(release: Any) -> None:
    release.up()
    before = release.state()["gateways"][0]["since"]
    assert release.run("restart", "gateway").returncode == 0
    assert release.state()["gateways"][0]["since"] > before


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
    assert after["gateways"][0]["pid"] == before["gateways"][0]["pid"]
    assert not {r["pid"] for r in before["replicas"]} & {r["pid"] for r in after["replicas"]}


def test_an_engine_setting_that_does_not_work_is_taken_back(release: Any, wait: Wait) -> None:
    release.up()
    done = release.run("up", "--set-string", "engine.env.MOCK_EXIT=3")
    assert done.returncode == 15
    assert "no kernel for this checkpoint" in done.stderr
    assert "going back" in done.stderr
    assert "replica-0: engine starting" in done.stderr
    assert (
        "replica-0 is starting again with the earlier setting; requests are answered with 503" in done.stderr
    )
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
    wait(lambda: release.state()["gateways"][0]["ready"])
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
    pid = release.state()["gateways"][0]["pid"]
    os.kill(pid, signal.SIGKILL)
    wait(lambda: release.state()["gateways"][0]["ready"] and release.state()["gateways"][0]["pid"] != pid)
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
    assert f"port {other.port} on 127.0.0.1 is taken by your release other" in done.stderr
    assert release.ask().status_code == 200


def test_a_fixed_admin_port_survives_a_change_of_the_gateway(release: Any) -> None:
    admin = free_port("127.0.0.1")
    release.write_spec(gateway={"admin_port": admin})
    release.up()
    release.up("--set", "gateway.workers=2")
    state = release.state()
    assert (state["gateways"][0]["admin_port"], len(state["gateways"][0]["workers"])) == (admin, 2)
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
    assert done.returncode == 2
    assert "it has: gateway, replica-0" in done.stderr
    done = release.run("logs", "replica-7")
    assert done.returncode == 2
    assert "there are: gateway, replica-0, supervisor" in done.stderr


def test_a_fleet_whose_keys_are_gone_says_that_it_lets_all_in(release: Any) -> None:
    release.popen("keys", "create", "alice").communicate()
    release.up()
    (Path(release.environ["XDG_DATA_HOME"]) / "tri-serve" / "keys.json").unlink()
    assert "no client keys are asked for any more" in release.up().stdout
    assert release.ask().status_code == 200
