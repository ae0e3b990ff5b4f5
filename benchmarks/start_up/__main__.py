"""``python -m benchmarks.start_up``: two replicas by ``tri-serve up`` against two bare servers, in rounds."""

from __future__ import annotations

import json
import random
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType

import click

from benchmarks.faults.fleet import FaultsError, Plan
from benchmarks.faults.run import versions
from benchmarks.gateway.machine import facts
from tri_serve.spec.engine import EngineSpec

from .contenders import Start, start_bare, start_fleet
from .report import PROMISED_RATIO, summarise, table

BARE = "bare"
CONTENDERS = ("ray", "process", BARE)


def _as_interrupt(_number: int, _frame: FrameType | None) -> None:
    """A SIGTERM takes the way of Ctrl-C: whatever was started is stopped first."""
    signal.raise_signal(signal.SIGINT)


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Interleaved rounds.")
@click.option("--only", default=",".join(CONTENDERS), show_default=True, help="Contenders, joined by commas.")
@click.option("--replicas", default=2, show_default=True, type=click.IntRange(1))
@click.option("--engine", type=click.Choice(["vllm", "mock"]), default="vllm", show_default=True)
@click.option("--seed", default=1, show_default=True, help="Of the order within a round.")
@click.option("--cost", is_flag=True, help="Say what Ray itself costs, too.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file for every start, as JSON; nothing is written without it.",
)
def main(
    rounds: int, only: str, replicas: int, engine: str, seed: int, cost: bool, output: Path | None
) -> None:
    """Time until each engine has given a stream of 64 tokens. Exit code 1 if a fleet takes longer than promised."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    names = only.split(",")
    if unknown := set(names) - set(CONTENDERS):
        raise click.UsageError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(CONTENDERS)}")
    plan = Plan(engine="mock" if engine == "mock" else "vllm", replicas=replicas)
    order = random.Random(seed)
    done: list[dict[str, Start]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tri-start-")))
        try:
            for number in range(rounds):
                one: dict[str, Start] = {}
                for name in order.sample(names, len(names)):
                    place = folder / f"{number}-{name}"
                    one[name] = (
                        start_bare(place, plan)
                        if name == BARE
                        else start_fleet(place, replace(plan, supervisor=name))
                    )
                    click.echo(f"round {number + 1}: {name} {one[name].seconds:.1f} s", err=True)
                done.append(one)
        except FaultsError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)
    summary = summarise(done)
    if output is not None:
        result = {
            "machine": facts(),
            "versions": versions({"engine": f"vllm {EngineSpec().version}" if engine == "vllm" else engine}),
            "options": {"rounds": rounds, "replicas": replicas, "engine": engine, "seed": seed},
            "rounds": [{name: asdict(start) for name, start in one.items()} for one in done],
            "summary": summary,
        }
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=1) + "\n")
        click.echo(f"every start: {output}", err=True)
    click.echo(table(summary, replicas, cost=cost))
    slow = [name for name, ratio in summary["ratios"].items() if ratio["mean"] > PROMISED_RATIO]
    for name in slow:
        click.echo(f"BROKEN: {name} took more than {PROMISED_RATIO:g}x as long as bare servers")
    sys.exit(bool(slow))


if __name__ == "__main__":
    main()
