"""Rounds: every router under every load, in an order that is shuffled each time."""

from __future__ import annotations

import math
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import report, saturation, scenarios
from .canned import start_canned_engines
from .client import BenchmarkError
from .contenders import ENGINE_KEY, Contender, HAProxy, TriServe, VllmRouter, start_mock_engine
from .machine import (
    busy_seconds,
    cpu_seconds,
    ended_children_seconds,
    facts,
    raise_descriptor_limit,
    split_cores,
    tree,
)
from .peers import find_programs, program_version, vllm_router_environment
from .scenarios import Sizes, Target

ROUTERS = ("tri-serve", "haproxy", "vllm-router")
DEFAULT_SCENARIOS = ("ttft", "requests", "chunks", "memory")
SCENARIOS = (*DEFAULT_SCENARIOS, "requests_light")

Load = Callable[[Target, Sizes], Awaitable[dict[str, float]]]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a comparison runs: its cores, and the engines behind every router."""

    router_cores: set[int]
    engine_ports: list[int]
    """The mock engines."""
    canned_ports: list[int]
    """The engines of ``requests``; none where it is not measured."""
    engine_pids: list[int]
    loads: dict[str, Load]

    async def load(self, name: str, target: Target, sizes: Sizes) -> dict[str, float]:
        """One load on one router, with the share of the machine that other programs took meanwhile."""
        ours = [os.getpid(), *self.engine_pids, *(tree(target.pid) if target.pid is not None else ())]
        begun, busy = time.monotonic(), busy_seconds()
        own = cpu_seconds(ours) + ended_children_seconds()
        figures = await self.loads[name](target, sizes)
        others = busy_seconds() - busy - (cpu_seconds(ours) + ended_children_seconds() - own)
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
    saturated = "requests" in wanted
    binaries = find_programs(
        [*(["haproxy"] if "haproxy" in names else []), *(["wrk", "nginx"] if saturated else [])]
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tri-bench-")))
        contenders = [_contender(name, folder, binaries) for name in names]
        os.sched_setaffinity(0, load_cores)
        site = _site(stack, router_cores, load_cores, binaries if saturated else None, folder)
        begun = time.monotonic()
        rng = random.Random(seed)
        measured: report.Rounds = []
        for number in range(rounds):
            figures = await _round(contenders, wanted, sizes, site, rng)
            measured.append({name: figures[name] for name in ("direct", *names) if name in figures})
            elapsed = time.monotonic() - begun
            progress(f"round {number + 1} of {rounds}, {elapsed:.0f} s: {report.brief(figures)}")
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
        "programs": {name: program_version(path) for name, path in binaries.items()},
        "sizes": {name: getattr(sizes, name) for name in Sizes.__slots__},
        "seconds": round(time.monotonic() - begun, 1),
        "summary": _finite(summary),
        "raw": _finite(measured),
        "table": report.table(summary, title),
    }


def _site(
    stack: ExitStack,
    router_cores: set[int],
    load_cores: set[int],
    saturating: dict[str, Path] | None,
    folder: Path,
) -> Site:
    """Start the engines, to be stopped with ``stack``; the canned ones only where there are programs for them."""
    pids: list[int] = []
    ports: list[int] = []
    canned: list[int] = []
    for number in range(2):
        engine, port = start_mock_engine(number, load_cores, folder)
        stack.callback(engine.stop)
        pids.append(engine.pid)
        ports.append(port)
    loads: dict[str, Load] = {
        "ttft": scenarios.ttft,
        "requests_light": scenarios.requests_light,
        "chunks": scenarios.chunks,
        "memory": scenarios.memory_growth,
    }
    if saturating is not None:
        engine, canned = start_canned_engines(saturating["nginx"], 2, load_cores, folder)
        stack.callback(engine.stop)
        pids.append(engine.pid)
        loads["requests"] = partial(saturation.requests, saturating["wrk"])
    return Site(router_cores, ports, canned, pids, loads)


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
    """One router's turn, in three processes: ``requests`` has engines of its own, and memory is read on a heap
    that has not grown yet, since it would not grow again."""
    figures: dict[str, dict[str, float]] = {}
    turns = [[name for name in wanted if name not in ("requests", "memory")]]
    turns += [[name] for name in ("requests", "memory") if name in wanted]
    for together in turns:
        if not together:
            continue
        canned = together == ["requests"]
        # Not in a thread: an interrupt between the start and the block below would leave the router behind.
        program, target = contender.start(
            site.canned_ports if canned else site.engine_ports, site.router_cores
        )
        stage = "warm-up"
        try:
            if not canned:  # which warms up by itself
                await _warm_up(target)
            for stage in together:
                figures[stage] = await site.load(stage, target, sizes)
        except (BenchmarkError, OSError) as error:
            last_words = program.log.read_text(errors="replace")[-1000:]
            raise BenchmarkError(f"{contender.name}, {stage}: {error}\n{last_words}") from error
        finally:
            program.stop()
    return figures


async def _warm_up(target: Target) -> None:
    """Every path once, on few connections: imports, first allocations, connections to the engines."""
    small = Sizes(request_connections=4, light_seconds=0.3, ttft_connections=4, ttft_seconds=0.3)
    await scenarios.requests_light(target, small)
    await scenarios.ttft(target, small)


def _contender(name: str, folder: Path, binaries: dict[str, Path]) -> Contender:
    if name == "haproxy":
        return HAProxy(folder, binaries["haproxy"])
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
