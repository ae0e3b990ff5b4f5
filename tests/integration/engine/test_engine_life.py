from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tri_serve.engine.engine import Engine, EngineState
from tri_serve.errors import EngineStartError
from tri_serve.launch.config import LaunchConfig
from tri_serve.process.ports import free_port

MOCK = (sys.executable, "-m", "tri_serve.mock", "--model", "tri")

# A server whose /health is 200 and whose every other answer is a 400, and which has a child that goes by the
# name of vLLM's core process.
WITH_CORE = """
import ctypes, http.server, os, sys, threading, time
if os.fork() == 0:
    ctypes.CDLL(None).prctl(15, b"VLLM::EngineCore", 0, 0, 0)
    time.sleep(60)
    os._exit(0)
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        body = b'{"choices": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = answer
    def log_message(self, *args):
        pass
time.sleep(0.2)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def make_engine(
    tmp_path: Path,
    argv: Sequence[str] = MOCK,
    *,
    start_timeout: float = 20.0,
    shutdown_timeout: float = 2.0,
    key: str | None = "sesame",
    add_port: bool = True,
    states: list[EngineState] | None = None,
    nice: int = 0,
) -> Engine:
    port = free_port("127.0.0.1")
    launch = LaunchConfig(
        argv=(*argv, "--port", str(port)) if add_port else (*argv, str(port)),
        env={},
        secret_env={} if key is None else {"VLLM_API_KEY": key},
        host="127.0.0.1",
        port=port,
        nice=nice,
    )
    return Engine(
        launch,
        name="tri-0",
        log=tmp_path / "engine.log",
        served_name="tri",
        start_timeout=start_timeout,
        shutdown_timeout=shutdown_timeout,
        on_change=(lambda engine: states.append(engine.state)) if states is not None else None,
    )


def script(source: str) -> tuple[str, ...]:
    return (sys.executable, "-c", source)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_an_engine_becomes_ready_and_stops_without_a_trace(tmp_path: Path) -> None:
    states: list[EngineState] = []

    async def life() -> int:
        engine = make_engine(tmp_path, states=states)
        await engine.start()
        pid = engine.pid
        assert pid is not None
        assert engine.phase_seconds.keys() == {"load", "warm"}
        await engine.stop()
        return pid

    pid = asyncio.run(life())
    assert states == [EngineState.WARMING, EngineState.READY, EngineState.DRAINING, EngineState.STOPPED]
    assert gone(pid)


def test_an_engine_stands_back_as_its_launch_config_says(tmp_path: Path) -> None:
    async def life() -> int:
        engine = make_engine(tmp_path, nice=3)
        await engine.start()
        assert engine.pid is not None
        found = os.getpriority(os.PRIO_PROCESS, engine.pid)
        await engine.stop()
        return found

    assert asyncio.run(life()) == min(19, os.nice(0) + 3)


def test_an_engine_that_was_never_started_can_be_stopped(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    asyncio.run(engine.stop())
    assert engine.state is EngineState.STOPPED


def test_the_engine_s_variables_are_set_and_tri_serve_s_own_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRI_SERVE_API_KEYS", "secret")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    show = "import os; print(*[f'{n}={v}' for n, v in os.environ.items()], sep='\\n'); raise SystemExit(1)"
    with pytest.raises(EngineStartError):
        asyncio.run(make_engine(tmp_path, script(show)).start())
    seen = (tmp_path / "engine.log").read_text().splitlines()
    assert "VLLM_API_KEY=sesame" in seen
    assert not [line for line in seen if line.startswith(("TRI_SERVE_API_KEYS", "PYTHONPATH"))]


@pytest.mark.parametrize(
    ("source", "words", "hint"),
    [
        ("import vllm_that_is_not_there", "ModuleNotFoundError: No module named", "its log"),
        ("raise OSError(98, 'Address already in use')", "exited with status 1: OSError", "start again"),
        (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            "torchvision::nms does not exist",
            "engine check",
        ),
        ("import os; os.kill(os.getpid(), 9)", "was killed (SIGKILL)", "its log"),
    ],
)
def test_a_start_that_fails_says_why_in_one_line(tmp_path: Path, source: str, words: str, hint: str) -> None:
    engine = make_engine(tmp_path, script(source))
    with pytest.raises(EngineStartError) as caught:
        asyncio.run(engine.start())
    assert caught.value.message.startswith("tri-0: ")
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert hint in (caught.value.hint or "")
    assert engine.state is EngineState.FAILED


def test_the_last_lines_of_the_log_are_in_the_error_and_only_this_engine_s(tmp_path: Path) -> None:
    (tmp_path / "engine.log").write_text("from an earlier life\n")
    source = "print(*range(40), sep='\\n'); raise SystemExit(3)"
    with pytest.raises(EngineStartError, match="exited with status 3") as caught:
        asyncio.run(make_engine(tmp_path, script(source)).start())
    assert caught.value.log_tail == tuple(str(number) for number in range(25, 40))


def test_an_engine_that_does_not_answer_in_time_is_ended(tmp_path: Path) -> None:
    async def life() -> int | None:
        engine = make_engine(tmp_path, script("import time; time.sleep(60)"), start_timeout=0.5)
        with pytest.raises(EngineStartError, match=r"not ready within 0\.5 s \(still starting\)"):
            await engine.start()
        return engine.pid

    pid = asyncio.run(life())
    assert pid is not None
    assert gone(pid)


def test_a_completion_that_is_refused_fails_the_start_with_the_engine_s_explanation(tmp_path: Path) -> None:
    other = (sys.executable, "-m", "tri_serve.mock", "--model", "another")
    with pytest.raises(EngineStartError, match=r"first completion with 404: .*tri"):
        asyncio.run(make_engine(tmp_path, other).start())


def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async def life() -> int | None:
        engine = make_engine(tmp_path, script("import time; time.sleep(60)"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await engine.start()
        return engine.pid

    pid = asyncio.run(life())
    assert pid is not None
    assert gone(pid)


def test_the_death_of_the_api_server_is_noticed(tmp_path: Path) -> None:
    async def life() -> str:
        engine = make_engine(tmp_path)
        await engine.start()
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        reason = await asyncio.wait_for(engine.wait_dead(), 10)
        assert engine.state is EngineState.FAILED
        await engine.stop()
        return reason

    assert "was killed (SIGKILL)" in asyncio.run(life())


def test_the_death_of_the_core_is_noticed_while_the_api_server_lives(tmp_path: Path) -> None:
    async def life() -> tuple[str, int]:
        engine = make_engine(tmp_path, script(WITH_CORE), add_port=False)
        await engine.start()
        (core,) = engine.core_pids
        os.kill(core, signal.SIGKILL)
        reason = await asyncio.wait_for(engine.wait_dead(), 5)
        assert engine.pid is not None
        assert not gone(engine.pid)
        await engine.stop()
        return reason, engine.pid

    reason, pid = asyncio.run(life())
    assert "EngineCore" in reason
    assert gone(pid)


def test_the_api_server_is_blamed_when_the_core_only_follows_it(tmp_path: Path) -> None:
    async def life() -> str:
        engine = make_engine(tmp_path, script(WITH_CORE), add_port=False)
        await engine.start()
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        reason = await asyncio.wait_for(engine.wait_dead(), 10)
        await engine.stop()
        return reason

    assert asyncio.run(life()).startswith("was killed (SIGKILL)")


def test_a_stopping_engine_may_finish_what_it_does(tmp_path: Path) -> None:
    on_term = "lambda *_: (time.sleep(0.5), print('finished', flush=True), os._exit(0))"
    handled = f"import signal\nsignal.signal(signal.SIGTERM, {on_term})\n"

    async def life() -> None:
        engine = make_engine(tmp_path, script("import os, time\n" + handled + WITH_CORE), add_port=False)
        await engine.start()
        await engine.stop()

    asyncio.run(life())
    assert "finished" in (tmp_path / "engine.log").read_text()
