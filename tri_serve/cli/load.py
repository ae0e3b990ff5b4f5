"""``tri-serve load``: what a server does under load, and whether the figures can be believed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tri_serve.cli.load_options import LoadOptions, load_options, said
from tri_serve.cli.options import output_option

if TYPE_CHECKING:
    from tri_serve.errors import TriServeError
    from tri_serve.load.run import LoadRun, RunOutcome


@click.group()
def load() -> None:
    """Say what a server does under load, in figures to be believed.

    Exit codes: 0 passed, 1 SLO missed, 2 usage, 3 regression, 4 the client was the limit, 5 the server failed.
    """
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in ("locust", "hdrh", "numpy")):
        from tri_serve.errors import MissingExtraError

        raise MissingExtraError("load", "tri-serve load")


@load.command()
@load_options
@click.option("--request-rate", default="", callback=said, metavar="N", help="Requests a second (open loop).")
@click.option(
    "--repeat",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    metavar="N",
    help="Run it so often, one after the other: load compare takes the rounds together. --json is then one array.",
)
@click.option(
    "--output-dir",
    "--result-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where result.json, report.html and the rest go. [default: a new folder under ~/.local/state]",
)
@click.option("--save-vllm-json", is_flag=True, help="Write vllm.json too, as vllm bench serve writes it.")
@click.option(
    "--save-detailed",
    is_flag=True,
    help="vllm.json with lists that have an entry for each request, as vLLM's.",
)
@click.option(
    "--records",
    type=click.Choice(["full", "short", "none"]),
    default="full",
    show_default=True,
    help="The file with a line for each request: with the time of every event, without, or no file.",
)
@output_option(instead=" A folder is named with --output-dir.")
def run(
    load: LoadOptions,
    request_rate: str,
    repeat: int,
    output_dir: Path | None,
    save_vllm_json: bool,
    save_detailed: bool,
    records: str,
    output: str,
) -> int:
    """Send the load that SCENARIO describes, and judge what came of it.

    SCENARIO is a name (tri-serve load scenarios) or a file. Without --url the release's gateway is asked. A client
    key is read from TRI_SERVE_API_KEY or OPENAI_API_KEY. Ctrl-C ends a run early and reports what was measured.
    """
    from tri_serve.cli.load_report import print_warning, printing
    from tri_serve.errors import UsageError
    from tri_serve.load.run import new_folder
    from tri_serve.load.verdict import error_of

    if save_detailed and records != "full":
        raise UsageError(
            f"--save-detailed reads the time of every event, which --records {records} leaves out"
        )
    files: dict[str, Any] = {
        "records": records,
        "save_vllm_json": save_vllm_json or save_detailed,
        "save_detailed": save_detailed,
    }
    scenario = load.read(request_rate)
    whole = load.run(Path(), request_rate)
    print_warning(scenario.scenario, whole.processes)
    folder = new_folder(load.scenario, output_dir)
    worst: TriServeError | None = None
    with printing(output, several=repeat > 1) as show:
        for number in range(1, repeat + 1):
            place = folder if repeat == 1 else new_folder(load.scenario, folder / f"round-{number}")
            outcome = _executed(load.run(place, request_rate, **files), number, repeat)
            show(outcome)
            error = error_of(outcome.result.verdict)
            if not outcome.result.complete:
                if error is not None and error.exit_code == outcome.exit_code:
                    raise error
                return outcome.exit_code
            if error is not None and (worst is None or error.exit_code > worst.exit_code):
                worst = error
    if worst is not None:
        raise worst
    return 0


def _executed(run: LoadRun, number: int = 1, of: int = 1) -> RunOutcome:
    from tri_serve.load.live import view
    from tri_serve.load.run import execute

    if of > 1:
        click.echo(f"round {number} of {of}", err=True)
    with view() as shown:
        return execute(run, shown.show)


@load.command()
@load_options
@click.option(
    "--lowest", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, metavar="N"
)
@click.option(
    "--highest", type=click.FloatRange(min=0, min_open=True), default=1000.0, show_default=True, metavar="N"
)
@click.option(
    "--precision",
    type=click.FloatRange(min=0.01, max=1),
    default=0.1,
    show_default=True,
    help="How near the rates that keep and miss the SLO are to be: 0.1 is 10%.",
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where each run's folder goes. [default: a new folder under ~/.local/state]",
)
@output_option(instead=" A folder is named with --output-dir.")
def knee(
    load: LoadOptions,
    lowest: float,
    highest: float,
    precision: float,
    output_dir: Path | None,
    output: str,
) -> int:
    """Search the request rate at which the SLO breaks.

    Whole runs of SCENARIO, at rates that are doubled until the SLO of --slo (or of the scenario) is missed, then
    halved in ratio. It ends where the client's figures are no longer to be believed.
    """
    from tri_serve.cli.load_report import knee_exit_code, print_knee
    from tri_serve.errors import UsageError
    from tri_serve.load.knee import find_knee
    from tri_serve.load.results.model import RunResult
    from tri_serve.load.run import new_folder

    if not load.promises and not str(load.read(str(lowest)).scenario.slo):
        raise UsageError(
            "a knee is where an SLO breaks, and none is given", hint="--slo ttft=500ms,tpot=50ms"
        )
    folder = new_folder(load.scenario, output_dir)

    tried: set[float] = set()

    def at(rate: float) -> RunResult:
        again = rate in tried
        tried.add(rate)
        click.echo(f"{rate:g} requests/s{', once more' if again else ''}", err=True)
        place = new_folder(load.scenario, folder / f"rate-{rate:g}{'-again' if again else ''}")
        return _executed(load.run(place, f"{rate:g}")).result

    found = find_knee(at, lowest=lowest, highest=highest, precision=precision)
    print_knee(found, folder, output)
    return knee_exit_code(found)


@load.command()
@output_option()
def scenarios(output: str) -> None:
    """List the scenarios that ship with tri-serve."""
    from tri_serve.cli.output import print_data, print_table
    from tri_serve.load.scenario.reading import read_scenario, scenario_names

    loaded = {name: read_scenario(name).scenario for name in scenario_names()}
    if output == "table":
        print_table(
            ("scenario", "arrivals", "what it is"),
            [(name, found.arrivals.kind, found.title) for name, found in loaded.items()],
        )
    else:
        rows = [{"name": name, **found.model_dump(mode="json")} for name, found in loaded.items()]
        print_data(rows, output)


@load.command()
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RESULT.json...")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a page with pictures.",
)
@click.option(
    "--vllm-json",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write it as vllm bench serve would.",
)
@output_option()
def report(results: tuple[Path, ...], html: Path | None, vllm_json: Path | None, output: str) -> None:
    """Show results again: on the terminal, as a page, or as vLLM's JSON.

    Several results on one page show throughput against latency.
    """
    from tri_serve.cli.load_report import print_reports

    print_reports(results, html, vllm_json, output)


@load.command()
@click.argument(
    "results", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="A.json B.json..."
)
@click.option(
    "--allowed",
    type=click.FloatRange(0, 10),
    default=0.05,
    show_default=True,
    help="How much worse is no regression: 0.05 is 5%.",
)
@output_option()
def compare(results: tuple[Path, ...], allowed: float, output: str) -> int:
    """Say by how much later results differ from the first, and whether by more than chance.

    A folder of rounds (load run --repeat) stands for all of them. The exit code is 3 for a regression.
    """
    from tri_serve.cli.load_report import print_compared

    return print_compared(results, allowed, output)


@load.command()
@output_option()
def selftest(output: str) -> None:
    """Measure what load this machine can be believed up to, with the mock engine: about three minutes.

    What it finds is kept, and load run warns of loads beyond it.
    """
    import os

    from tri_serve.cli.output import print_data
    from tri_serve.load.ceiling import ceiling_path, write_ceiling
    from tri_serve.load.selftest import ceiling_lines
    from tri_serve.load.selftest import selftest as measure
    from tri_serve.load.swarm.machine import this_machine

    machine = this_machine()
    cores = machine.cores or len(os.sched_getaffinity(0))
    found = measure(cpu=machine.cpu, cores=cores, say=lambda line: click.echo(line, err=True))
    write_ceiling(found, ceiling_path())
    if output == "table":
        click.echo("\n".join(ceiling_lines(found)))
    else:
        print_data(found.model_dump(mode="json"), output)
