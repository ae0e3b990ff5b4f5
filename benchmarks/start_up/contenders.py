"""What is started: a fleet by ``tri-serve up``, and the same engines bare, all of them at once."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.faults.fleet import FaultsError, Fleet, Plan, counter
from benchmarks.gateway.machine import memory, tree
from tri_serve.fleet.prepare import prepare
from tri_serve.launch.config import LaunchConfig
from tri_serve.launch.inherited import inherited_environment
from tri_serve.process.guard import start_ticks, stat_fields
from tri_serve.process.ports import free_port
from tri_serve.spec.load import load_spec

from .stream import TOKENS, answers, stream_64

_POLL = 0.2
_PATIENCE = 900.0
_STOP_PATIENCE = 40.0
_TOKEN_COUNTER = "vllm:generation_tokens_total"
_HOST = "127.0.0.1"


@dataclass
class Start:
    """One start. Seconds after its first command."""

    contender: str
    first_stream: dict[str, float] = field(default_factory=dict)
    """Engine → the end of the first whole stream of 64 tokens from it."""
    command_seconds: float | None = None
    """Until ``tri-serve up`` had ended."""
    spawned_seconds: float | None = None
    """From the supervisor's start until it had the first engine's program started; Ray has to be up by then."""
    ray: dict[str, Any] = field(default_factory=dict)
    """What Ray cost, where there is one."""

    @property
    def seconds(self) -> float:
        """Until every engine had given a stream."""
        return max(self.first_stream.values())


def start_fleet(folder: Path, plan: Plan) -> Start:
    """Two engines by ``tri-serve up``, until each has given a stream through the gateway.

    Which engine a stream came from is read from the engines' own counters.
    """
    fleet = Fleet(folder, plan, release="start-up")
    start = Start(plan.supervisor or "default")
    with fleet:
        began = time.monotonic()
        command = fleet.start_command("up", "--no-ask")
        said: list[str] = []
        reader = threading.Thread(  # its pipes must not fill
            target=lambda: said.extend(command.communicate()), daemon=True
        )
        reader.start()
        deadline = began + _PATIENCE
        while len(start.first_stream) < plan.replicas:
            if time.monotonic() > deadline:
                raise FaultsError(f"no stream from each engine within {_PATIENCE:g} s")
            if command.poll() not in (None, 0):
                reader.join(_STOP_PATIENCE)
                raise FaultsError(
                    f"tri-serve up ended with exit code {command.returncode}\n{''.join(said)[-2000:]}"
                )
            time.sleep(_POLL)
            for name, port in _healthy(fleet.admin_port).items():
                if name not in start.first_stream and _served(fleet, port):
                    start.first_stream[name] = time.monotonic() - began
        reader.join(_PATIENCE)
        start.command_seconds = time.monotonic() - began
        status = fleet.status()
        if status is None:
            raise FaultsError("status says nothing of a fleet that serves")
        start.spawned_seconds = _spawned_seconds(status)
        start.ray = ray_cost(fleet, status)
    if fleet.left:
        raise FaultsError(f"{len(fleet.left)} processes were left: {fleet.left}")
    return start


def _healthy(admin_port: int) -> dict[str, int]:
    """Replicas that the gateway would send requests to, and their engines' ports."""
    text = answers(_HOST, admin_port, "/status")
    if text is None:
        return {}
    return {r["name"]: r["port"] for r in json.loads(text)["replicas"] if r["healthy"]}


def _served(fleet: Fleet, port: int) -> bool:
    """Send streams until this engine has given one: as many at once as there are replicas reach each of them."""
    before = counter(port, _TOKEN_COUNTER)
    threads = [
        threading.Thread(target=stream_64, args=(_HOST, fleet.port, "tri-tiny"))
        for _ in range(fleet.plan.replicas)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counter(port, _TOKEN_COUNTER) - before >= TOKENS


def _spawned_seconds(status: Mapping[str, Any]) -> float:
    pids = [status["supervisor"]["pid"], *(replica["pid"] for replica in status["replicas"])]
    supervisor, *engines = [fields for pid in pids if (fields := stat_fields(pid)) is not None]
    ticks = min(start_ticks(engine) for engine in engines) - start_ticks(supervisor)
    return ticks / os.sysconf("SC_CLK_TCK")


def ray_cost(fleet: Fleet, status: Mapping[str, Any]) -> dict[str, Any]:
    """Memory of Ray's own processes; empty for a fleet without Ray."""
    if not status.get("ray"):
        return {}
    engines = {pid for replica in status["replicas"] for pid in tree(replica["pid"])}
    gateways = {pid for gateway in status["gateways"] for pid in tree(gateway["pid"])}
    ours = {status["supervisor"]["pid"], *engines, *gateways}
    found = {
        process.pid: _command(process.pid)
        for process in fleet.processes()
        if process.pid not in ours and _is_ray(_command(process.pid))
    }
    used = memory(list(found))
    return {
        "processes": len(found),
        "rss_mib": used.rss / 2**20,
        "pss_mib": used.pss / 2**20,
        "commands": sorted(command[:80] for command in found.values()),
    }


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _is_ray(command: str) -> bool:
    return any(word in command for word in ("/ray/", "ray::", "raylet", "gcs_server"))


def start_bare(folder: Path, plan: Plan) -> Start:
    """The same engines with the very argv and environment that the fleet gives them, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tri-serve.yaml"
    file.write_text(yaml.safe_dump(plan.document(free_port(_HOST), free_port(_HOST))))
    spec = load_spec(None, [file], {}).spec
    prepared = prepare(spec)
    start = Start("bare")
    launches = [
        prepared.launch(port=free_port(_HOST), api_key="bare", gpus=prepared.gpus_of(k))
        for k in range(plan.replicas)
    ]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        began = time.monotonic()
        processes = [_spawn(launch, folder / f"bare-{k}.log") for k, launch in enumerate(launches)]
        waiting = dict(enumerate(launches))
        while waiting:
            if time.monotonic() > began + _PATIENCE:
                raise FaultsError(f"no stream from each server within {_PATIENCE:g} s")
            time.sleep(_POLL)
            for k, launch in list(waiting.items()):
                if processes[k].poll() is not None:
                    raise FaultsError(f"a bare server ended: {folder / f'bare-{k}.log'}")
                if answers(_HOST, launch.port, "/health") is not None and stream_64(
                    _HOST, launch.port, spec.model.served_name, "bare"
                ):
                    start.first_stream[f"bare-{k}"] = time.monotonic() - began
                    del waiting[k]
    finally:
        _stop(processes)
    return start


def _spawn(launch: LaunchConfig, log: Path) -> subprocess.Popen[bytes]:
    environ: Mapping[str, str] = inherited_environment(os.environ)
    with log.open("wb") as output:
        return subprocess.Popen(
            launch.argv,
            env={**environ, **launch.env, **launch.secret_env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _STOP_PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            for pid in reversed(tree(process.pid)):
                os.kill(pid, 9)
            process.wait()
