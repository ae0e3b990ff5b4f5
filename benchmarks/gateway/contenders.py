"""Routers under test: how each is configured, started on its own core, and stopped."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from .client import BenchmarkError
from .scenarios import MODEL, Target

# The same length, so that no router reads a longer head than another.
ENGINE_KEY = "engine-key-of-the-benchmark-0001"
CLIENT_KEY = "client-key-of-the-benchmark-0001"


class Program:
    """A started program on given cores, its output in a file; stopped when the block ends, by force if need be."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cores: set[int],
        log: Path,
        env: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                argv,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(env or {})},
                pass_fds=pass_fds,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_answer(self, port: int, path: str, *, key: str | None = None, seconds: float = 30.0) -> None:
        """Return when ``path`` answers 200; if it does not, stop and raise BenchmarkError with the log's end."""
        deadline = time.monotonic() + seconds
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
        if key is not None:
            request.add_header("authorization", f"Bearer {key}")
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(request, timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.02)
        self.stop()
        raise BenchmarkError(
            f"{self._process.args!r} did not answer on {port}: {self.log.read_text()[-2000:]}"
        )

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_mock_engine(number: int, cores: set[int], folder: Path) -> tuple[Program, int]:
    """A mock engine that wants the engine key, and its port."""
    port = free_port()
    argv = [sys.executable, "-m", "tri_serve.mock", "--port", str(port), "--model", MODEL]
    log = folder / f"engine-{number}.log"
    program = Program(argv, cores=cores, log=log, env={"VLLM_API_KEY": ENGINE_KEY})
    program.wait_answer(port, "/health")
    return program, port


class HAProxy:
    """HAProxy: one thread, round robin, connections to the engines kept and shared."""

    name = "haproxy"

    def __init__(self, folder: Path, binary: Path) -> None:
        self._folder = folder
        self._binary = str(binary)

    def version(self) -> str:
        out = subprocess.run([self._binary, "-v"], capture_output=True, text=True, check=True).stdout
        return out.split()[2]

    def start(self, engines: list[int], cores: set[int]) -> tuple[Program, Target]:
        port = free_port()
        servers = "\n".join(f"    server e{i} 127.0.0.1:{p} check inter 10s" for i, p in enumerate(engines))
        config = self._folder / "haproxy.cfg"
        config.write_text(f"""\
global
    nbthread 1
    maxconn 8192
defaults
    mode http
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    option http-keep-alive
    option http-no-delay
    http-reuse always
frontend clients
    bind 127.0.0.1:{port}
    default_backend engines
backend engines
    balance roundrobin
    option httpchk GET /health
{servers}
""")
        program = Program(
            [self._binary, "-db", "-f", str(config)], cores=cores, log=self._folder / "haproxy.log"
        )
        program.wait_answer(port, "/v1/models", key=ENGINE_KEY)
        return program, Target(port, ENGINE_KEY, program.pid)


class VllmRouter:
    """vllm-router from PyPI, round robin, quiet; its one core is what taskset leaves to its thread pool."""

    name = "vllm-router"

    def __init__(self, folder: Path, environment: Path) -> None:
        self._folder = folder
        self._environment = environment

    def version(self) -> str:
        out = subprocess.run(
            [
                self._environment / "bin/python",
                "-c",
                "import importlib.metadata as m; print(m.version('vllm-router'))",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return out.stdout.strip()

    def start(self, engines: list[int], cores: set[int]) -> tuple[Program, Target]:
        port = free_port()
        argv = [str(self._environment / "bin/vllm-router"), "--host", "127.0.0.1", "--port", str(port)]
        argv += ["--policy", "round_robin", "--log-level", "error", "--worker-startup-check-interval", "1"]
        argv += ["--prometheus-port", str(free_port()), "--worker-urls"]
        argv += [f"http://127.0.0.1:{engine}" for engine in engines]
        program = Program(argv, cores=cores, log=self._folder / "vllm-router.log")
        program.wait_answer(port, "/v1/models", key=ENGINE_KEY)
        return program, Target(port, ENGINE_KEY, program.pid)


class TriServe:
    """The shipped gateway process as its supervisor starts it: one worker, a client key, an engine key."""

    name = "tri-serve"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def version(self) -> str:
        import tri_serve

        return tri_serve.__version__

    def start(self, engines: list[int], cores: set[int]) -> tuple[Program, Target]:
        from tri_serve.gateway.config import GatewayConfig, ReplicaAddress

        replicas = tuple(
            ReplicaAddress(name=f"e{i}", host="127.0.0.1", port=p) for i, p in enumerate(engines)
        )
        config = GatewayConfig(
            release="benchmark",
            served_models=(MODEL,),
            admin_socket=self._folder / f"admin-{time.monotonic_ns()}.sock",
            client_key_hashes={"benchmark": hashlib.sha256(CLIENT_KEY.encode()).hexdigest()},
            engine_key=ENGINE_KEY,
            replicas=replicas,
        )
        file = self._folder / "gateway.json"
        file.touch(mode=0o600)
        file.write_text(config.model_dump_json())
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", 0))
            listener.listen(4096)
            port = int(listener.getsockname()[1])
            argv = [sys.executable, "-m", "tri_serve.gateway", "--config", str(file)]
            argv += ["--listen-fd", str(listener.fileno())]
            log = self._folder / "tri-serve.log"
            program = Program(argv, cores=cores, log=log, pass_fds=(listener.fileno(),))
        program.wait_answer(port, "/ready")
        return program, Target(port, CLIENT_KEY, program.pid)


Contender = HAProxy | VllmRouter | TriServe
