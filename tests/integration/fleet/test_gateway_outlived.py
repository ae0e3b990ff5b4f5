"""A gateway whose first process dies: its successor serves while the workers left behind end their streams."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tri_serve.fleet.gateway_process import GatewayProcess
from tri_serve.fleet.release import ReleasePaths
from tri_serve.gateway.config import GatewayConfig, ReplicaAddress


@pytest.fixture
def engine() -> Iterator[ReplicaAddress]:
    command = [sys.executable, "-m", "tri_serve.mock", "--port", "0", "--model", "m", "--itl-ms", "20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        yield ReplicaAddress(name="replica-0", host="127.0.0.1", port=port)
        process.kill()


@pytest.fixture
def paths() -> Iterator[ReleasePaths]:
    with tempfile.TemporaryDirectory() as directory:  # shorter than tmp_path: it holds sockets
        paths = ReleasePaths(Path(directory))
        paths.logs.mkdir()
        yield paths


def stream(url: str, tokens: int) -> str:
    body = {"model": "m", "prompt": "x", "max_tokens": tokens, "stream": True}
    return requests.post(f"{url}/v1/completions", json=body, timeout=60).text


def test_streams_of_a_killed_first_process_end_whole_beside_its_successor(
    paths: ReleasePaths, engine: ReplicaAddress
) -> None:
    async def scenario() -> int:
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        url = "http://{}:{}".format(*listener.getsockname())
        config = GatewayConfig(release="t", served_models=("m",), admin_socket=paths.admin_socket(0))
        gateway = GatewayProcess(paths, listener, config, on_change=lambda: None)
        gateway.set_roster([engine])
        gateway.begin()
        assert await gateway.wait_ready(within=30)
        streams = [asyncio.create_task(asyncio.to_thread(stream, url, 300)) for _ in range(4)]
        first = await gateway.status()
        while first is None or first["workers"][0]["in_flight"] < 4:
            await asyncio.sleep(0.05)
            first = await gateway.status()
        os.kill(first["pid"], signal.SIGKILL)
        assert await gateway.wait_ready(within=30)
        second = await gateway.status()
        assert second is not None
        assert second["pid"] != first["pid"]
        assert (await asyncio.to_thread(stream, url, 3)).endswith("data: [DONE]\n\n")
        for text in await asyncio.gather(*streams):
            assert text.endswith("data: [DONE]\n\n")
        await gateway.stop()
        return int(first["workers"][0]["pid"])

    worker = asyncio.run(scenario())
    assert not Path(f"/proc/{worker}").exists()
