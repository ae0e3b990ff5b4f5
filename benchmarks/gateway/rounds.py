"""Rounds: every router under every load, in an order that is shuffled each time."""

from __future__ import annotations

import asyncio
import math
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import report, scenarios
from .client import BenchmarkError
from .contenders import ENGINE_KEY, Contender, HAProxy, TriServe, VllmRouter, start_engines
from .machine import busy_seconds, cpu_seconds, facts, raise_descriptor_limit, split_cores, tree
from .peers import vllm_router_environment
from .scenarios import Sizes, Target

ROUTERS = ("tri-serve", "haproxy", "vllm-router")
SCENARIOS: dict[str, Callable[[Target, Sizes], Awaitable[dict[str, float]]]] = {
    "ttft": scenarios.ttft,
    "requests": scenarios.requests,
    "chunks": scenarios.chunks,
    "memory": scenarios.memory_growth,
}


@dataclass(frozen=True, slots=True)
class Site:
    """Where a comparison runs: its cores, and the engines behind every router."""

    router_cores: set[int]
    engine_ports: list[int]
    engine_pids: list[int]

    async def load(self, name: str, target: Target, sizes: Sizes) -> dict[str, float]:
        """One load on one router, with the share of the machine that other programs took meanwhile."""
        ours = [os.getpid(), *self.engine_pids, *(tree(target.pid) if target.pid is not None else ())]
        begun, busy, own = time.monotonic(), busy_seconds(), cpu_seconds(ours)
        figures = await SCENARIOS[name](target, sizes)
        others = busy_seconds() - busy - (cpu_seconds(ours) - own)
        cores = os.cpu_count() or 1
        return {**figures, "others_cpu_share": max(0.0, others) / (time.monotonic() - begun) / cores}


async def compare(
    rounds: int,
    names: list[str],
    wanted: list[str],
    seed: int,
    sizes: Sizes,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """The whole comparison; raises BenchmarkError as soon as a response is wrong."""
    raise_descriptor_limit()
    router_cores, load_cores = split_cores()
    with tempfile.TemporaryDirectory(prefix="tri-bench-") as temporary:
        folder = Path(temporary)
        contenders = [_contender(name, folder) for name in names]
        os.sched_setaffinity(0, load_cores)
        engines, ports = start_engines(2, load_cores, folder)
        site = Site(router_cores, ports, [engine.pid for engine in engines])
        begun = time.monotonic()
        try:
            rng = random.Random(seed)
            measured: report.Rounds = []
            for number in range(rounds):
                figures = await _round(contenders, wanted, sizes, site, rng)
                measured.append({name: figures[name] for name in ("direct", *names) if name in figures})
                elapsed = time.monotonic() - begun
                progress(f"round {number + 1} of {rounds}, {elapsed:.0f} s: {report.brief(figures)}")
        finally:
            for engine in engines:
                engine.stop()
    machine = facts()
    versions = {contender.name: contender.version() for contender in contenders}
    summary = report.summarise(measured)
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    title = f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}; {rounds} rounds; {named}"
    return {
        "machine": machine,
        "versions": versions,
        "rounds": rounds,
        "seed": seed,
        "router_cores": sorted(router_cores),
        "load_cores": sorted(load_cores),
        "sizes": {name: getattr(sizes, name) for name in Sizes.__slots__},
        "seconds": round(time.monotonic() - begun, 1),
        "summary": _finite(summary),
        "raw": _finite(measured),
        "table": report.table(summary, title),
    }


async def _round(
    contenders: list[Contender], wanted: list[str], sizes: Sizes, site: Site, rng: random.Random
) -> dict[str, dict[str, dict[str, float]]]:
    order: list[Contender | None] = [None, *contenders]
    rng.shuffle(order)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for contender in order:
        if contender is not None:
            figures[contender.name] = await _measure(contender, wanted, sizes, site)
        elif "ttft" in wanted:
            direct = Target(site.engine_ports[0], ENGINE_KEY, None)
            figures["direct"] = {"ttft": await site.load("ttft", direct, sizes)}
    return figures


async def _measure(
    contender: Contender, wanted: list[str], sizes: Sizes, site: Site
) -> dict[str, dict[str, float]]:
    """One router's turn. Memory is read on a process of its own: a heap that has grown does not grow again."""
    figures: dict[str, dict[str, float]] = {}
    others = [name for name in wanted if name != "memory"]
    for together in (others, ["memory"] if "memory" in wanted else []):
        if not together:
            continue
        program, target = await asyncio.to_thread(contender.start, site.engine_ports, site.router_cores)
        try:
            await _warm_up(target)
            for name in together:
                try:
                    figures[name] = await site.load(name, target, sizes)
                except (BenchmarkError, OSError) as error:
                    last_words = program.log.read_text(errors="replace")[-1000:]
                    raise BenchmarkError(f"{contender.name}, {name}: {error}\n{last_words}") from error
        finally:
            await asyncio.to_thread(program.stop)
    return figures


async def _warm_up(target: Target) -> None:
    """Every path once, on few connections: imports, first allocations, connections to the engines."""
    small = Sizes(request_connections=4, request_seconds=0.3, ttft_connections=4, ttft_seconds=0.3)
    await scenarios.requests(target, small)
    await scenarios.ttft(target, small)


def _contender(name: str, folder: Path) -> Contender:
    if name == "haproxy":
        return HAProxy(folder)
    if name == "vllm-router":
        return VllmRouter(folder, vllm_router_environment())
    return TriServe(folder)


def _finite(value: Any) -> Any:
    """The same with null for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
