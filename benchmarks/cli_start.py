"""``python -m benchmarks.cli_start``: how long short commands take, beside a Python that does nothing.

Ends with 1 if one of ours takes more processor time than BOUND, at its least: on an idle machine that is nearly its
wall time.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

from .gateway.machine import facts

BOUND = 0.3
"""Seconds of processor time: what a user does not yet feel as waiting."""


@click.command()
@click.option("--runs", default=21, show_default=True, type=click.IntRange(3), help="Of each, in turn.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Where the raw figures go.")
def main(runs: int, output: Path | None) -> None:
    """Wall and processor time of short commands in new processes."""
    program = str(Path(sys.executable).with_name("tri-serve"))
    source = "--set=model.source=/path/to/checkpoint"
    commands = {
        "tri-serve --help": [program, "--help"],
        "tri-serve plan show": [program, "plan", "show", "tri-21b-awq", "--gpu=l4"],
        "tri-serve render shell": [program, "render", "shell", "tri-21b-awq", "--gpu=l4", source],
        "python -c pass": [sys.executable, "-c", "pass"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    processor: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs + 1):
        for name, argv in commands.items():
            begun, used = time.perf_counter(), _used()
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - begun)
            processor[name].append(_used() - used)
    # The first of each may compile bytecode and fill the page cache.
    milliseconds = {name: [value * 1e3 for value in values[1:]] for name, values in seconds.items()}
    processor_ms = {name: [value * 1e3 for value in values[1:]] for name, values in processor.items()}
    click.echo(
        "| command | median, ms | least | most | processor, least |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for name, values in milliseconds.items():
        times = (statistics.median(values), min(values), max(values), min(processor_ms[name]))
        click.echo(f"| `{name}` | {' | '.join(f'{value:.0f}' for value in times)} |")
    if output is not None:
        measured = {"machine": facts(), "milliseconds": milliseconds, "processor_milliseconds": processor_ms}
        output.write_text(json.dumps(measured, indent=1) + "\n")
    slow = [name for name, values in processor_ms.items() if min(values) > BOUND * 1e3]
    if slow:
        click.echo(f"above {BOUND:g} s of processor time: {', '.join(slow)}", err=True)
        sys.exit(1)


def _used() -> float:
    """Seconds of processor time of all children so far."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
