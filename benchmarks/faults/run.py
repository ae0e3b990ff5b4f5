"""One scenario from an empty folder to a result: the fleet up, the scenario, the fleet down."""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Protocol

from benchmarks.gateway.machine import facts

from .both_serve import both_serve
from .engines import engines
from .fleet import Fleet, Plan
from .gateways import gateway, workers
from .kills import Say
from .ray_killed import ray
from .result import Result


class Scenario(Protocol):
    """One way of breaking a fleet that runs."""

    def __call__(
        self,
        fleet: Fleet,
        *,
        rounds: int,
        clients: int,
        seed: int,
        within: float,
        calm: float | None,
        say: Say,
    ) -> Awaitable[Result]: ...


SCENARIOS: dict[str, Scenario] = {
    "engines": engines,
    "workers": workers,
    "gateway": gateway,
    "ray": ray,
    "both_serve": both_serve,
}
WORKERS = {"workers": 2}
"""Workers of the gateway, where a scenario needs more than one."""


def run(
    name: str,
    folder: Path,
    plan: Plan,
    *,
    rounds: int = 10,
    clients: int = 8,
    seed: int = 1,
    within: float = 5.0,
    calm: float | None = None,
    say: Say = lambda _: None,
) -> Result:
    """Run one scenario on a fleet of its own in ``folder``. Raises FaultsError if the fleet does not start.

    Whatever happens, nothing of the fleet runs when this returns or raises.
    """
    scenario = SCENARIOS[name]
    fleet = Fleet(folder, plan)
    began = time.time()
    with fleet:
        say(
            f"{name}: starting {plan.replicas} replicas, {plan.engine}, supervisor {plan.supervisor or 'default'}"
        )
        up_seconds = fleet.up()
        status = fleet.status() or {}
        say(f"up after {up_seconds:.1f} s")

        async def work() -> Result:
            return await scenario(
                fleet, rounds=rounds, clients=clients, seed=seed, within=within, calm=calm, say=say
            )

        result = asyncio.run(work())
    if fleet.left:
        result.broken += [f"{len(fleet.left)} processes were left after down", *fleet.left]
    result.figures = {
        "scenario": name,
        "began": began,
        "machine": facts(),
        "versions": versions(status),
        "options": {
            "engine": plan.engine,
            "supervisor": "ray" if status.get("ray") else "process",
            "replicas": plan.replicas,
            "workers": plan.workers,
            "rounds": rounds,
            "clients": clients,
            "seed": seed,
            "within": within,
            "calm": calm,
        },
        "up_seconds": up_seconds,
        "broken": result.broken,
        "table": result.table,
        **result.figures,
    }
    return result


def versions(status: dict[str, Any]) -> dict[str, str | None]:
    """Of what was measured."""
    found: dict[str, str | None] = {"engine": status.get("engine")}
    for package in ("tri-serve", "ray"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found
