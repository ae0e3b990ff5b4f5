"""States of fleets made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tri_serve.fleet.state import (
    FleetPhase,
    FleetState,
    GatewayState,
    RayState,
    ReplicaPhase,
    ReplicaState,
    SupervisorState,
    WorkerState,
)

NOW = 1_000_000.0
"""Unix time at which these states are looked at."""


def made_replica(number: int, **facts: Any) -> ReplicaState:
    """A replica that has been ready for two hours, under load."""
    ready: dict[str, Any] = {
        "name": f"replica-{number}",
        "phase": ReplicaPhase.READY,
        "since": NOW - 7_620,
        "node": "10.0.0.11",
        "device": f"cuda:{number}",
        "pid": 41_200 + number,
        "kv_cache_tokens": 419_430,
        "in_flight": 12,
        "waiting": 3,
        "tokens_per_second": 1_234.5,
        "linear_kernel": "MarlinLinearKernel",
        "log": "/l",
    }
    return ReplicaState(**(ready | facts))


def made_gateway(**facts: Any) -> GatewayState:
    """A gateway with two workers."""
    running: dict[str, Any] = {
        "phase": "running",
        "since": NOW - 7_620,
        "ready": True,
        "pid": 41_100,
        "in_flight": 24,
        "admin_port": 45_735,
        "workers": (
            WorkerState(pid=41_101, up=True, connections=37, in_flight=13),
            WorkerState(pid=41_102, up=True, connections=35, in_flight=11),
        ),
        "log": "/l",
    }
    return GatewayState(**(running | facts))


def made_fleet(**facts: Any) -> FleetState:
    """Two replicas and a gateway under a private Ray."""
    running: dict[str, Any] = {
        "release": "tri",
        "phase": FleetPhase.RUNNING,
        "url": "http://127.0.0.1:8000",
        "model": "tri-21b",
        "source": "trillionlabs/Tri-21B-AWQ",
        "engine": "vllm 0.32.0",
        "supervisor": SupervisorState(pid=41_000, ticks=1, boot="b", token="t", started=NOW - 7_700),
        "ray": RayState(
            phase="running",
            address="127.0.0.1:26379",
            processes={"gcs_server": 41_001, "raylet": 41_002},
            nodes=1,
        ),
        "replicas": (made_replica(0), made_replica(1)),
        "desired_replicas": 2,
        "gateways": (made_gateway(),),
    }
    return FleetState(**(running | facts))


@pytest.fixture(autouse=True)
def _nothing_shown_before(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What whoever runs the tests was told already is none of theirs, and nothing is remembered for them."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture
def now() -> float:
    return NOW


@pytest.fixture
def replica() -> Callable[..., ReplicaState]:
    return made_replica


@pytest.fixture
def gateway() -> Callable[..., GatewayState]:
    return made_gateway


@pytest.fixture
def fleet() -> Callable[..., FleetState]:
    return made_fleet
