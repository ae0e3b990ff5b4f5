"""``python -m benchmarks.faults SCENARIO``: break a fleet on purpose, and count what clients see."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import click

from .fleet import FaultsError, Plan
from .run import SCENARIOS, WORKERS, run
from .traffic import LONGEST_PAUSE


def _as_interrupt(_number: int, _frame: FrameType | None) -> None:
    """A SIGTERM takes the way of Ctrl-C: whatever was started is stopped first."""
    signal.raise_signal(signal.SIGINT)


@click.command()
@click.argument("scenario", type=click.Choice([*SCENARIOS, "all"]))
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1), help="Kills.")
@click.option("--clients", default=8, show_default=True, type=click.IntRange(1), help="Clients at a time.")
@click.option("--seed", default=1, show_default=True, help="Of the requests and of the moments.")
@click.option(
    "--within",
    default=5.0,
    show_default=True,
    help="Each kill comes at a moment drawn from so many seconds after the fleet is whole.",
)
@click.option(
    "--calm",
    type=float,
    help="Seconds for which a victim has to have run; default: none, or, where there are so many kills that the "
    "fleet would call them a crash loop, as long as it takes to forget one.",
)
@click.option("--engine", type=click.Choice(["vllm", "mock"]), default="vllm", show_default=True)
@click.option("--supervisor", type=click.Choice(["ray", "process"]), help="Default: the product's.")
@click.option(
    "--pause",
    default=LONGEST_PAUSE,
    show_default=True,
    help="Seconds that a client rests between two requests, at most.",
)
@click.option("--replicas", default=2, show_default=True, type=click.IntRange(1))
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the fleet keeps its state and logs; kept. Default: a temporary folder.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file for every sample, as JSON; nothing is written without it.",
)
def main(
    scenario: str,
    rounds: int,
    clients: int,
    seed: int,
    within: float,
    calm: float | None,
    engine: str,
    supervisor: str | None,
    pause: float,
    replicas: int,
    folder: Path | None,
    output: Path | None,
) -> None:
    """Break a fleet on purpose. Exit code 1 if a promise was broken, 2 if there was nothing to measure."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    names = list(SCENARIOS) if scenario == "all" else [scenario]
    plan = Plan(
        engine="mock" if engine == "mock" else "vllm", supervisor=supervisor, replicas=replicas, pause=pause
    )
    results: list[dict[str, Any]] = []
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tri-faults-")))
        for name in names:
            try:
                result = run(
                    name,
                    folder / name,
                    replace(plan, workers=WORKERS.get(name, 1)),
                    rounds=rounds,
                    clients=clients,
                    seed=seed,
                    within=within,
                    calm=calm,
                    say=lambda line: click.echo(line, err=True),
                )
            except FaultsError as error:
                click.echo(f"error: {name}: {error}", err=True)
                sys.exit(2)
            results.append(result.figures)
            click.echo(f"\n{name}\n\n{result.table}\n")
            for line in result.broken:
                click.echo(f"BROKEN: {line}")
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(results[0] if len(results) == 1 else results, indent=1) + "\n")
        click.echo(f"\nevery sample: {output}")
    sys.exit(any(result["broken"] for result in results))


if __name__ == "__main__":
    main()
