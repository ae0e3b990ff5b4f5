"""``python -m benchmarks.gateway``: the whole comparison, in rounds whose order is shuffled."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import click
import uvloop

from .client import BenchmarkError
from .rounds import DEFAULT_SCENARIOS, ROUTERS, SCENARIOS, compare
from .scenarios import Sizes


@click.command()
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1), help="Interleaved rounds.")
@click.option("--only", default=",".join(ROUTERS), show_default=True, help="Routers, joined by commas.")
@click.option(
    "--scenario",
    "chosen",
    default=",".join(DEFAULT_SCENARIOS),
    show_default=True,
    help="Loads, joined by commas; there is requests_light as well.",
)
@click.option("--seed", default=1, show_default=True, help="Of the order within a round.")
@click.option(
    "--scale", default=1.0, show_default=True, help="Of the seconds of each load; small for a quick look."
)
@click.option("--streams", default=2048, show_default=True, help="Running streams in the memory scenario.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file for the raw figures, as JSON; nothing is written without it.",
)
def main(
    rounds: int, only: str, chosen: str, seed: int, scale: float, streams: int, output: Path | None
) -> None:
    """Compare the gateway with HAProxy and vllm-router, normalised by each router's own CPU time."""
    names, wanted = only.split(","), chosen.split(",")
    for given, known in ((names, ROUTERS), (wanted, SCENARIOS)):
        if unknown := set(given) - set(known):
            raise click.UsageError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    sizes = Sizes(
        request_seconds=max(1, round(4 * scale)),
        light_seconds=2.5 * scale,
        stream_seconds=2.0 * scale,
        ttft_seconds=1.2 * scale,
        memory_streams=streams,
    )

    async def run() -> dict[str, Any]:
        task = asyncio.current_task()
        assert task is not None
        # As an interrupt does it: whatever was started is stopped first.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await compare(rounds, names, wanted, seed, sizes, lambda line: click.echo(line, err=True))

    try:
        result = uvloop.run(run())
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    except BenchmarkError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    click.echo(result["table"])
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=1) + "\n")
        click.echo(f"\nraw figures: {output}")


if __name__ == "__main__":
    main()
