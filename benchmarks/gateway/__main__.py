"""``python -m benchmarks.gateway``: the whole comparison, in rounds whose order is shuffled."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
import uvloop

from . import report, scenarios
from .client import BenchmarkError
from .contenders import ENGINE_KEY, Contender, HAProxy, TriServe, VllmRouter, start_engines
from .machine import facts, raise_descriptor_limit, split_cores
from .peers import vllm_router_environment
from .scenarios import Sizes, Target

_ROUTERS = ("tri-serve", "haproxy", "vllm-router")
_SCENARIOS: dict[str, Callable[[Target, Sizes], Awaitable[dict[str, float]]]] = {
    "ttft": scenarios.ttft,
    "requests": scenarios.requests,
    "chunks": scenarios.chunks,
    "memory": scenarios.memory_growth,
}


@click.command()
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1), help="Interleaved rounds.")
@click.option("--only", default=",".join(_ROUTERS), show_default=True, help="Routers, joined by commas.")
@click.option(
    "--scenario", "chosen", default=",".join(_SCENARIOS), show_default=True, help="Loads, joined by commas."
)
@click.option("--seed", default=1, show_default=True, help="Of the order within a round.")
@click.option(
    "--scale", default=1.0, show_default=True, help="Of the seconds of each load; small for a quick look."
)
@click.option("--streams", default=2048, show_default=True, help="Running streams in the memory scenario.")
@click.option(
    "--output",
    default="benchmarks/gateway/results.json",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the raw figures go.",
)
def main(rounds: int, only: str, chosen: str, seed: int, scale: float, streams: int, output: Path) -> None:
    """Compare the gateway with HAProxy and vllm-router, normalised by each router's own CPU time."""
    names, wanted = only.split(","), chosen.split(",")
    for given, known in ((names, _ROUTERS), (wanted, tuple(_SCENARIOS))):
        if unknown := set(given) - set(known):
            raise click.UsageError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    sizes = Sizes(
        request_seconds=2.5 * scale,
        stream_seconds=2.5 * scale,
        ttft_seconds=1.5 * scale,
        memory_streams=streams,
    )
    try:
        result = uvloop.run(_run(rounds, names, wanted, seed, sizes))
    except BenchmarkError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n")
    click.echo(result["table"])
    click.echo(f"\nraw figures: {output}")


async def _run(rounds: int, names: list[str], wanted: list[str], seed: int, sizes: Sizes) -> dict[str, Any]:
    raise_descriptor_limit()
    router_cores, load_cores = split_cores()
    with tempfile.TemporaryDirectory(prefix="tri-bench-") as temporary:
        folder = Path(temporary)
        contenders = [_contender(name, folder) for name in names]
        _pin(load_cores)
        engines, ports = start_engines(2, load_cores, folder)
        try:
            rng = random.Random(seed)
            begun = time.monotonic()
            measured: report.Rounds = []
            for number in range(rounds):
                order: list[Contender | None] = [None, *contenders]
                rng.shuffle(order)
                figures: dict[str, dict[str, dict[str, float]]] = {}
                for contender in order:
                    if contender is None:
                        if "ttft" in wanted:
                            direct = Target(ports[0], ENGINE_KEY, None)
                            figures["direct"] = {"ttft": await scenarios.ttft(direct, sizes)}
                    else:
                        figures[contender.name] = await _measure(
                            contender, wanted, sizes, ports, router_cores
                        )
                measured.append({name: figures[name] for name in ("direct", *names) if name in figures})
                click.echo(
                    f"round {number + 1} of {rounds}, {time.monotonic() - begun:.0f} s: {_brief(figures)}",
                    err=True,
                )
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
        "summary": summary,
        "raw": measured,
        "table": report.table(summary, title),
    }


async def _measure(
    contender: Contender, wanted: list[str], sizes: Sizes, engines: list[int], cores: set[int]
) -> dict[str, dict[str, float]]:
    """One router's turn. Memory is read on a process of its own: a heap that has grown does not grow again."""
    figures: dict[str, dict[str, float]] = {}
    for together in (
        [name for name in wanted if name != "memory"],
        [name for name in wanted if name == "memory"],
    ):
        if not together:
            continue
        program, target = await asyncio.to_thread(contender.start, engines, cores)
        try:
            await _warm_up(target, sizes)
            for name in together:
                try:
                    figures[name] = await _SCENARIOS[name](target, sizes)
                except (BenchmarkError, OSError) as error:
                    last_words = program.log.read_text(errors="replace")[-1000:]
                    raise BenchmarkError(f"{contender.name}, {name}: {error}\n{last_words}") from error
        finally:
            await asyncio.to_thread(program.stop)
    return figures


async def _warm_up(target: Target, sizes: Sizes) -> None:
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


def _pin(cores: set[int]) -> None:
    import os

    os.sched_setaffinity(0, cores)


def _brief(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    parts = []
    for name, by_scenario in figures.items():
        values = [
            f"{by_scenario[scenario][key]:,.{digits}f}"
            for scenario, key, digits in (
                ("requests", "requests_per_cpu_second", 0),
                ("chunks", "chunks_per_cpu_second", 0),
                ("ttft", "ttft_p50_ms", 3),
                ("memory", "pss_bytes_per_stream", 0),
            )
            if scenario in by_scenario
        ]
        parts.append(f"{name} {' / '.join(values)}")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
