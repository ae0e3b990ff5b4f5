"""A mock engine, small scenarios, and the load generator as a user starts it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tri_serve.load.results.model import RunResult

ROOT = Path(__file__).parents[3]
LOCUSTFILE = ROOT / "loadtests" / "locustfile.py"
OPEN = "{kind: poisson, rate: 30}"

SCENARIO = """\
title: A short load
arrivals: {arrivals}
workload:
  parts:
    - kind: written
      name: chat
      input: {{fixed: 48}}
      output: {{fixed: 8}}
warm_up: 500ms
window: {window}
grace: 5s
"""


def bare_environment(**more: str) -> dict[str, str]:
    """Nothing of the user's settings and keys."""
    settings = ("TRI_SERVE_", "LOCUST_", "VLLM_", "OPENAI_")
    return {name: value for name, value in os.environ.items() if not name.startswith(settings)} | more


@dataclass(frozen=True)
class Ran:
    """A load generator that has ended."""

    code: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def result(self) -> RunResult:
        return RunResult.model_validate_json((self.folder / "result.json").read_bytes())

    def records(self, process: int = 0) -> list[dict[str, Any]]:
        """Without the header."""
        lines = (self.folder / f"records-{process}.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines[1:]]


Start = Callable[..., str]


@pytest.fixture
def mock_engine() -> Iterator[Start]:
    """Starts mock engines; gives their URLs."""
    engines: list[subprocess.Popen[str]] = []

    def start(*options: str, key: str | None = None) -> str:
        engine = subprocess.Popen(
            [sys.executable, "-m", "tri_serve.mock", "--port", "0", *options],
            stdout=subprocess.PIPE,
            text=True,
            env=bare_environment(**({"VLLM_API_KEY": key} if key else {})),
        )
        engines.append(engine)
        assert engine.stdout is not None
        found = re.search(r"http://\S+:\d+", engine.stdout.readline())
        assert found is not None
        return found[0]

    yield start
    for engine in engines:
        engine.terminate()
        engine.wait(10)
        assert engine.stdout is not None
        engine.stdout.close()


@pytest.fixture
def scenario(tmp_path: Path) -> Callable[..., str]:
    """Writes a scenario; gives its path."""

    def write(arrivals: str = OPEN, window: str = "2s") -> str:
        path = tmp_path / "short.yaml"
        path.write_text(SCENARIO.format(arrivals=arrivals, window=window))
        return str(path)

    return write


@pytest.fixture
def locust(tmp_path: Path) -> Callable[..., Ran]:
    """Plain ``locust -f loadtests/locustfile.py --headless``, run to its end."""

    def run(*options: str, environment: Mapping[str, str] | None = None) -> Ran:
        folder = tmp_path / "results"
        argv = [*locust_argv(folder), "--headless", "--only-summary", *options]
        done = subprocess.run(
            argv,
            env=bare_environment(**(environment or {})),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr, folder)

    return run


def locust_argv(folder: Path) -> list[str]:
    """Locust with our locustfile, its files in ``folder``."""
    return [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--results", str(folder)]


def two_processes() -> list[str]:
    """Options for two processes, beside whatever else runs on this machine."""
    port = str(free_port())
    return ["--processes", "2", "--master-bind-port", port, "--master-port", port]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., Ran]:
    """``tri-serve load …``, run to its end."""

    def run(*words: str, environment: Mapping[str, str] | None = None) -> Ran:
        done = subprocess.run(
            cli_argv(*words),
            env=cli_environment(tmp_path, environment or {}),
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr, tmp_path / "results")

    return run


def cli_argv(*words: str) -> list[str]:
    return [sys.executable, "-m", "tri_serve.cli.main", "load", *words]


def cli_environment(home: Path, more: Mapping[str, str]) -> dict[str, str]:
    """With a state folder of its own."""
    return bare_environment(XDG_STATE_HOME=str(home / "state"), **more)
