"""A fleet under test, worked through the product's own commands, in a state directory of its own."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

import yaml

from tri_serve.engine.cores import engine_processes
from tri_serve.process.guard import signal_exactly
from tri_serve.process.ports import free_port
from tri_serve.process.strays import MARKER, ProcessIdentity, command_of, find_strays, identify

from .prompts import EngineKind
from .traffic import LONGEST_PAUSE

_MOCK = Path(__file__).with_name("mock_vllm.py")
_UP_SECONDS = 900.0
_DOWN_SECONDS = 150.0
_STATUS_SECONDS = 60.0
_FIRST_POLL = 0.3
_LONGEST_POLL = 3.0
# Each look costs a fifth of a second of a core: what comes back soon is seen soon, what takes long is left alone.
_POLL_GROWTH = 1.25

P = ParamSpec("P")
T = TypeVar("T")


class FaultsError(Exception):
    """The fleet did not do what a scenario needs: there are no figures."""


@dataclass(frozen=True)
class Plan:
    """What fleet a scenario wants."""

    engine: EngineKind = "vllm"
    supervisor: str | None = None
    """``ray`` or ``process``; None leaves the product's default."""
    replicas: int = 2
    workers: int = 1
    mock_start_seconds: float = 1.0
    preset: str = "tri-tiny-awq"
    pause: float = LONGEST_PAUSE
    """Seconds that a client rests between requests, at most. On a CPU, engines start with what clients leave."""

    def document(self, port: int, admin_port: int) -> dict[str, Any]:
        """tri-serve.yaml."""
        document: dict[str, Any] = {
            "preset": self.preset if self.engine == "vllm" else "tri-tiny-bf16",
            "fleet": {"replicas": self.replicas},
            "gateway": {
                "port": port,
                "admin_port": admin_port,
                "workers": self.workers,
                "timeouts": {"drain": 30},  # an answer of 600 tokens takes 15 s and more on a busy CPU
            },
        }
        if self.supervisor is not None:
            document["fleet"]["supervisor"] = self.supervisor
        if self.engine == "mock":
            document["engine"] = {
                "command": [sys.executable, str(_MOCK)],
                "start_timeout": 60,
                "shutdown_timeout": 5,
                "env": {
                    "MOCK_START_SECONDS": str(self.mock_start_seconds),
                    "MOCK_FLAGS": "--ttft-ms 40 --itl-ms 12 --jitter 0.5",
                },
            }
        return document


class Fleet:
    """One release. As a context it is taken down at the end, whatever happened; ``left`` is what that left."""

    def __init__(
        self, folder: Path, plan: Plan, *, release: str = "faults", environ: Mapping[str, str] | None = None
    ) -> None:
        """``environ`` is laid over this process's own environment, in which its commands run."""
        self.plan = plan
        self.release = release
        self.port = free_port("127.0.0.1")
        self.admin_port = free_port("127.0.0.1")
        self.left: list[str] = []
        """Processes that were still there after ``down``, as command lines."""
        self._abandoned = threading.Event()
        self._folder = folder
        # Whatever descends from here carries it, the supervisor and its Ray included.
        self._token = secrets.token_hex(8)
        self._environ = {
            **os.environ,
            **(environ or {}),
            "XDG_STATE_HOME": str(folder / "state"),
            "COLUMNS": "80",
            MARKER: self._token,
        }

    @property
    def url(self) -> str:
        """Where its clients connect."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(self.plan.document(self.port, self.admin_port))
        (self._folder / "tri-serve.yaml").write_text(text)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.down()
        finally:
            self.left = [command_of(stray.pid) for stray in self.sweep()]

    # -- commands

    def start_command(self, *arguments: str) -> subprocess.Popen[str]:
        """Start one command of this release."""
        command, *rest = arguments
        return subprocess.Popen(
            # -P: nothing in the working directory may shadow the package.
            [sys.executable, "-P", "-m", "tri_serve.cli.main", command, "-r", self.release, *rest],
            cwd=self._folder,
            env=self._environ,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def command(self, *arguments: str, within: float) -> subprocess.CompletedProcess[str]:
        """Run one command of this release. Raises FaultsError if it takes longer than ``within`` seconds."""
        with self.start_command(*arguments) as process:
            try:
                out, err = process.communicate(timeout=within)
            except subprocess.TimeoutExpired:
                process.kill()
                raise FaultsError(f"tri-serve {arguments[0]} took longer than {within:g} s") from None
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def up(self) -> float:
        """``up``; seconds that it took. Raises FaultsError if it fails."""
        began = time.monotonic()
        done = self.command("up", "--no-ask", within=_UP_SECONDS)
        if done.returncode:
            raise FaultsError(f"tri-serve up: exit code {done.returncode}\n{done.stderr[-2000:]}")
        return time.monotonic() - began

    def down(self) -> None:
        """``down``, in bounded time."""
        self.command("down", within=_DOWN_SECONDS)

    def status(self) -> dict[str, Any] | None:
        """What ``status -o json`` says; None if it says nothing that can be read."""
        done = self.command("status", "-o", "json", within=_STATUS_SECONDS)
        try:
            document = json.loads(done.stdout)
        except ValueError:
            return None
        return document if isinstance(document, dict) else None

    # -- processes

    def processes(self) -> tuple[ProcessIdentity, ...]:
        """Everything of this release that runs, by the marker in its environment."""
        return find_strays(self._token)

    def sweep(self) -> tuple[ProcessIdentity, ...]:
        """Kill what is left; returns what was found at first."""
        found = strays = self.processes()
        deadline = time.monotonic() + 20
        while strays and time.monotonic() < deadline:
            for stray in strays:
                signal_exactly(stray.pid, stray.ticks, signal.SIGKILL)
            time.sleep(0.05)
            strays = self.processes()
        return found

    # -- waiting

    async def whole(self, within: float, earlier: Mapping[str, int] | None = None) -> dict[str, Any]:
        """``wait_whole`` in a thread, which ends when this is cancelled."""
        return await self.beside(self.wait_whole, within, earlier)

    async def beside(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` of this fleet in a thread; when this is cancelled, what it waits for is given up."""
        try:
            return await asyncio.to_thread(work, *args, **kwargs)
        except asyncio.CancelledError:
            self._abandoned.set()
            raise

    def looks(self, within: float) -> Iterator[dict[str, Any] | None]:
        """What ``status`` says, again and again for ``within`` seconds, ever less often.

        Raises FaultsError if nobody waits any more.
        """
        deadline = time.monotonic() + within
        pause = _FIRST_POLL
        while time.monotonic() < deadline:
            yield self.status()
            if self._abandoned.wait(pause):
                raise FaultsError("given up by the caller")
            pause = min(pause * _POLL_GROWTH, _LONGEST_POLL)

    def wait_whole(self, within: float, earlier: Mapping[str, int] | None = None) -> dict[str, Any]:
        """The status once every part is ready again, and each of ``earlier`` (part → pid) is another process.

        Raises FaultsError if a part is given up, or it takes too long.
        """
        status: dict[str, Any] | None = None
        for status in self.looks(within):
            if status is not None:
                if failed := given_up(status):
                    raise FaultsError(f"given up: {'; '.join(failed)}")
                if is_whole(status, self.plan.workers) and not _same(status, earlier or {}):
                    return status
        raise FaultsError(f"not whole again within {within:g} s: {brief(status)}")


def parts(status: Mapping[str, Any]) -> dict[str, int]:
    """Every process that can be killed by name, and its pid: ``replica-0``, ``replica-0/core``, ``gateway``,
    ``gateway/worker-0``, ``ray/raylet``."""
    found: dict[str, int] = {}
    for replica in status["replicas"]:
        if replica["pid"] is not None:
            found[replica["name"]] = replica["pid"]
            cores = replica.get("core_pids") or [core.pid for core in engine_processes(replica["pid"])[0]]
            if cores:
                found[f"{replica['name']}/core"] = cores[0]
    for gateway in status["gateways"]:
        if gateway["pid"] is not None:
            found[gateway["name"]] = gateway["pid"]
        for number, worker in enumerate(gateway["workers"]):
            if worker["pid"] is not None:
                found[f"{gateway['name']}/worker-{number}"] = worker["pid"]
    for name, pid in ((status.get("ray") or {}).get("processes") or {}).items():
        found[f"ray/{name}"] = pid
    return found


def is_whole(status: Mapping[str, Any], workers: int) -> bool:
    """Whether everything that should run does, as the fleet says."""
    ray = status.get("ray")
    return (
        status["phase"] == "running"
        and bool(status["replicas"])
        and all(replica["phase"] == "ready" for replica in status["replicas"])
        and bool(status["gateways"])
        and all(
            gateway["phase"] == "running"
            and gateway["ready"]
            and sum(worker["up"] for worker in gateway["workers"]) == workers
            for gateway in status["gateways"]
        )
        and (ray is None or ray["phase"] == "running")
    )


def given_up(status: Mapping[str, Any]) -> list[str]:
    """What the fleet says will not come back by itself, with its words."""
    named = [*status["replicas"], *status["gateways"]]
    found = [f"{part['name']}: {part.get('error')}" for part in named if part["phase"] == "failed"]
    ray = status.get("ray")
    if ray is not None and ray["phase"] == "failed":
        found.append(f"ray: {ray.get('error')}")
    if status["phase"] == "failed":
        found.append(f"the fleet: {(status.get('error') or {}).get('message')}")
    return found


def brief(status: Mapping[str, Any] | None) -> str:
    """A status in a line."""
    if status is None:
        return "status says nothing"
    named = [(part["name"], part["phase"]) for part in (*status["replicas"], *status["gateways"])]
    ray = status.get("ray")
    if ray is not None:
        named.append(("ray", ray["phase"]))
    return f"{status['phase']}: " + ", ".join(f"{name} {phase}" for name, phase in named)


def _same(status: Mapping[str, Any], earlier: Mapping[str, int]) -> bool:
    now = parts(status)
    return any(now.get(name) == pid for name, pid in earlier.items())


def kill(pid: int) -> float:
    """SIGKILL this process; the monotonic time just after. Raises FaultsError if it is not there."""
    identity = identify(pid)
    if identity is None or not signal_exactly(identity.pid, identity.ticks, signal.SIGKILL):
        raise FaultsError(f"pid {pid} was gone before it could be killed")
    return time.monotonic()


def counter(port: int, name: str, host: str = "127.0.0.1") -> float:
    """The sum of one metric's samples at an engine. Raises OSError if it does not answer."""
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=30) as response:
        text = response.read().decode()
    lines = (line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
    return sum(float(line.rpartition(" ")[2]) for line in lines)
