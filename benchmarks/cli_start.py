"""``python -m benchmarks.cli_start``: how long short commands take, beside a Python that does nothing."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

from .gateway.machine import facts


@click.command()
@click.option("--runs", default=21, show_default=True, type=click.IntRange(3), help="Of each, in turn.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Where the raw figures go.")
def main(runs: int, output: Path | None) -> None:
    """Median wall time of short commands in new processes."""
    program = str(Path(sys.executable).with_name("tri-serve"))
    source = "--set=model.source=/path/to/checkpoint"
    commands = {
        "tri-serve --help": [program, "--help"],
        "tri-serve plan show": [program, "plan", "show", "tri-21b-awq", "--gpu=l4"],
        "tri-serve render shell": [program, "render", "shell", "tri-21b-awq", "--gpu=l4", source],
        "python -c pass": [sys.executable, "-c", "pass"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs + 1):
        for name, argv in commands.items():
            begun = time.perf_counter()
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - begun)
    # The first of each may compile bytecode and fill the page cache.
    milliseconds = {name: [value * 1e3 for value in values[1:]] for name, values in seconds.items()}
    click.echo("| command | median, ms | least | most |\n| --- | ---: | ---: | ---: |")
    for name, values in milliseconds.items():
        click.echo(f"| `{name}` | {statistics.median(values):.0f} | {min(values):.0f} | {max(values):.0f} |")
    if output is not None:
        output.write_text(json.dumps({"machine": facts(), "milliseconds": milliseconds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
