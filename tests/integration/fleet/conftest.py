"""A release of its own for each test: the real command line, supervisor and gateway; the mock engine below."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tri_serve.process.ports import free_port
from tri_serve.process.strays import MARKER, find_strays

COMMAND_SECONDS = 150.0
"""A command that takes longer hangs; a Ray that starts on a busy machine takes a minute."""
MOCK = Path(__file__).with_name("mock_vllm.py")


def until(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Poll until ``condition`` gives something true, and return it; fails the test if it does not in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.05)
    return found


@dataclass
class Release:
    """One release as its user has it: a folder with tri-serve.yaml, and the command line."""

    folder: Path
    environ: dict[str, str]
    token: str
    name: str = "tri"
    port: int = field(default_factory=lambda: free_port("127.0.0.1"))

    def __post_init__(self) -> None:
        self.write_spec()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def root(self) -> Path:
        return Path(self.environ["XDG_STATE_HOME"]) / "tri-serve" / "releases" / self.name

    def write_spec(self, **sections: dict[str, Any]) -> None:
        """tri-serve.yaml with the mock engine, and these sections on top."""
        engine = {"command": [sys.executable, str(MOCK)], "start_timeout": 20, "shutdown_timeout": 5}
        gateway = {"port": self.port, "timeouts": {"drain": 5}}
        spec = {
            "preset": "tri-tiny-bf16",
            "engine": engine | sections.pop("engine", {}),
            "gateway": gateway | sections.pop("gateway", {}),
            "fleet": {"supervisor": "process", "replicas": 1} | sections.pop("fleet", {}),
            **sections,
        }
        (self.folder / "tri-serve.yaml").write_text(yaml.safe_dump(spec))

    def popen(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        """Start a command line."""
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "tri_serve.cli.main", *arguments],
            cwd=self.folder,
            env=self.environ | more.pop("environ", {}),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=more.pop("stdin", subprocess.DEVNULL),
            start_new_session=True,
            **more,
        )

    def run(
        self, command: str, *arguments: str, stdin: str | None = None, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one command of this release to its end."""
        with self.popen(
            command,
            "-r",
            self.name,
            *arguments,
            environ=environ,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        ) as process:
            out, err = process.communicate(stdin, timeout=COMMAND_SECONDS)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def up(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """`up` without its first question, which must succeed."""
        done = self.run("up", "--no-ask", *arguments, **environ)
        assert done.returncode == 0, done.stderr
        return done

    def state(self) -> dict[str, Any]:
        """What `status -o json` says."""
        done = self.run("status", "-o", "json")
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def replica(self, number: int = 0) -> dict[str, Any]:
        """One replica's part of the state."""
        found: dict[str, Any] = self.state()["replicas"][number]
        return found

    def ask(self, **more: Any) -> requests.Response:
        """One chat request through the gateway."""
        body = {"model": "tri-tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        body |= more.pop("body", {})
        return requests.post(f"{self.url}/v1/chat/completions", json=body, timeout=20, **more)

    def processes(self) -> tuple[int, ...]:
        """What runs of this test, of whatever release."""
        return tuple(stray.pid for stray in find_strays(self.token))

    def nothing_left(self, seconds: float = 6.0) -> None:
        """Every process must be gone within so many seconds."""
        until(lambda: not self.processes(), seconds)

    def beside(self, name: str) -> Release:
        """Another release of the same user, in a folder of its own."""
        folder = self.folder.parent / name
        folder.mkdir()
        return Release(folder, self.environ, self.token, name)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Derived checkpoints, once for all tests."""
    return tmp_path_factory.mktemp("cache")


def kill_all(token: str) -> None:
    """Kill what a failed test left."""
    while strays := find_strays(token):
        for stray in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(stray.pid, signal.SIGKILL)
        time.sleep(0.02)


@contextlib.contextmanager
def a_release(place: Path, cache: Path) -> Iterator[Release]:
    """A release that is not running; whatever runs of it at the end is killed."""
    token = secrets.token_hex(8)
    folder = place / "work"
    folder.mkdir()
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(place),
        "LANG": "C.UTF-8",
        "XDG_STATE_HOME": str(place / "state"),
        "XDG_DATA_HOME": str(place / "data"),
        "XDG_CACHE_HOME": str(cache),
        "COLUMNS": "80",
        MARKER: token,
    }
    # Sockets of paths that are too long for them go there, and the test's own looks find them there.
    with tempfile.TemporaryDirectory(prefix="tri-") as runtime, pytest.MonkeyPatch.context() as patch:
        environ["XDG_RUNTIME_DIR"] = runtime
        patch.setenv("XDG_RUNTIME_DIR", runtime)
        yield Release(folder, environ, token)
        kill_all(token)


@pytest.fixture
def release(tmp_path: Path, cache: Path) -> Iterator[Release]:
    """A release of the test's own."""
    with a_release(tmp_path, cache) as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Release]:
    """A release for all tests of a file."""
    with a_release(tmp_path_factory.mktemp("shared"), cache) as found:
        yield found


@pytest.fixture
def wait() -> Callable[..., Any]:
    """``until``, for tests."""
    return until
