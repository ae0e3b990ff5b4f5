"""The engine room against a real vLLM: what it says of itself, how it dies, how it stops."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tri_serve.checkpoint.tiny import tiny_checkpoint
from tri_serve.engine.engine import Engine, EngineState
from tri_serve.errors import EngineStartError
from tri_serve.launch.environment import EngineEnvironment
from tri_serve.launch.vllm import vllm_launch
from tri_serve.places import cache_dir
from tri_serve.process.ports import free_port
from tri_serve.spec.models import Spec

# A start takes 35 to 70 s on two cores, and more on a busy machine.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


def make_engine(environment: EngineEnvironment, log: Path, **engine: Any) -> Engine:
    spec = Spec.model_validate(
        {"model": {"source": "tiny:awq", "served_name": "tri"}, "engine": {"device": "cpu", **engine}}
    )
    launch = vllm_launch(
        spec,
        checkpoint=tiny_checkpoint("awq", cache_dir()),
        environment=environment,
        device="cpu",
        host="127.0.0.1",
        port=free_port("127.0.0.1"),
        api_key="sesame",
        cores=2,
    )
    return Engine(
        launch, name="tri-0", log=log, served_name="tri", start_timeout=600.0, shutdown_timeout=30.0
    )


async def stream(engine: Engine, tokens: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A running completion whose first event has arrived."""
    reader, writer = await asyncio.open_connection(engine.launch.host, engine.launch.port)
    body = b'{"model": "tri", "prompt": "1", "max_tokens": %d, "ignore_eos": true, "stream": true}' % tokens
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sesame\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    await reader.readuntil(b"data: ")
    return reader, writer


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def running(
    runner: asyncio.Runner, engine_environment: EngineEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """A ready engine that the last test using it kills."""
    engine = make_engine(engine_environment, tmp_path_factory.mktemp("engine") / "engine.log")
    runner.run(engine.start())
    yield engine
    runner.run(engine.stop())


def test_it_is_ready_with_the_4_bit_kernel_and_its_cache_known(running: Engine) -> None:
    assert running.state is EngineState.READY
    assert running.linear_kernel == "CPUWNA16LinearKernel"
    # 2^30 bytes ÷ 2,560 bytes a token (4 layers, 1 key-value head, 160 wide, bf16, keys and values), in whole
    # blocks of 128 tokens, one of them reserved.
    assert running.kv_cache_tokens == 2**30 // 2560 // 128 * 128
    assert len(running.core_pids) == 1
    assert running.phase_seconds.keys() == {"import", "load", "warm"}


def test_its_key_is_in_no_argv_and_not_in_its_log(running: Engine) -> None:
    command = Path(f"/proc/{running.pid}/cmdline").read_bytes()
    assert b"--served-model-name" in command
    assert b"sesame" not in command
    assert "sesame" not in running.log.read_text()


@pytest.mark.parametrize("path", ["/v1/completions", "/invocations", "/tokenize", "/generative_scoring"])
def test_no_route_does_work_without_its_key(running: Engine, path: str) -> None:
    body = {"model": "tri", "prompt": "1", "max_tokens": 1}
    url = f"http://{running.launch.host}:{running.launch.port}"
    keys = {"Authorization": "Bearer sesame"}
    assert requests.post(url + path, json=body, timeout=30).status_code == 401
    assert requests.post(url + path, json=body, headers=keys, timeout=30).status_code != 401
    assert requests.get(url + "/metrics", timeout=30).status_code == 200


def test_the_death_of_its_core_is_noticed_at_once_and_nothing_is_left(
    runner: asyncio.Runner, running: Engine
) -> None:
    async def kill() -> str:
        os.kill(running.core_pids[0], signal.SIGKILL)
        return await asyncio.wait_for(running.wait_dead(), 5)

    pids = (running.pid, *running.core_pids)
    assert "EngineCore" in runner.run(kill())
    runner.run(running.stop())
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def test_a_stop_lets_a_running_stream_finish(engine_environment: EngineEnvironment, tmp_path: Path) -> None:
    async def life() -> bytes:
        engine = make_engine(engine_environment, tmp_path / "engine.log")
        await engine.start()
        reader, writer = await stream(engine, tokens=300)
        stop = asyncio.create_task(engine.stop())
        received = await reader.read(-1)
        writer.close()
        await stop
        return received

    received = asyncio.run(life())
    assert b'"finish_reason":"length"' in received
    assert received.rstrip(b"\r\n0").endswith(b"data: [DONE]")


def test_a_cache_larger_than_the_memory_fails_the_start_with_the_way_out(
    engine_environment: EngineEnvironment, tmp_path: Path
) -> None:
    engine = make_engine(engine_environment, tmp_path / "engine.log", cpu_kv_cache_gib=1000)
    with pytest.raises(EngineStartError, match="Available memory on node") as caught:
        asyncio.run(engine.start())
    assert caught.value.hint is not None
    assert "engine.cpu_kv_cache_gib" in caught.value.hint
