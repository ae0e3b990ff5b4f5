"""What the commands of ``load`` print: results to stdout, everything beside them to stderr."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tri_serve.cli.output import print_data, print_table

if TYPE_CHECKING:
    from tri_serve.load.knee import Knee, Point
    from tri_serve.load.results.model import RunResult
    from tri_serve.load.run import RunOutcome
    from tri_serve.load.scenario.models import Scenario


def print_warning(scenario: Scenario, processes: int) -> None:
    """Say before a run that it is beyond what this machine was measured to send."""
    from tri_serve.load.ceiling import ceiling_path, read_ceiling, warning
    from tri_serve.load.run import heaviest_load
    from tri_serve.load.swarm.machine import this_machine

    machine = this_machine()
    rate, tokens = heaviest_load(scenario)
    ceiling = read_ceiling(ceiling_path(), cpu=machine.cpu, cores=machine.cores or 1)
    words = warning(ceiling, requests_per_second=rate, output_tokens=tokens, processes=processes)
    if words:
        click.echo(f"warning: {words}", err=True)


@contextmanager
def printing(output: str, *, several: bool) -> Iterator[Callable[[RunOutcome], None]]:
    """What prints the report of a run, and where its files are.

    Data is one document: of ``several`` runs a list, printed at the end, whatever the end is.
    """
    from tri_serve.load.results.text import report

    rows: list[object] = []

    def show(outcome: RunOutcome) -> None:
        if output == "table":
            click.echo(report(outcome.result), nl=False)
        elif several:
            rows.append(outcome.result.model_dump(mode="json"))
        else:
            print_data(outcome.result.model_dump(mode="json"), output)
        _print_files(outcome)

    try:
        yield show
    finally:
        if several and output != "table":
            print_data(rows, output)


def _print_files(outcome: RunOutcome) -> None:
    for remark in outcome.remarks:
        click.echo(f"warning: {remark}", err=True)
    if outcome.path is not None:
        click.echo(f"result: {outcome.path}", err=True)
        page = outcome.path.with_name("report.html")
        if page.exists():
            click.echo(f"page:   {page}", err=True)


def read_result(path: Path) -> RunResult:
    """The result in a file, or in a run's folder. Raises UsageError for what is none."""
    from pydantic import ValidationError

    from tri_serve.errors import UsageError
    from tri_serve.load.results.model import FORMAT, RunResult

    folder = path
    if path.is_dir():
        path = path / "result.json"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", hint=_runs_in(folder)) from error
    try:
        return RunResult.model_validate_json(data)
    except ValidationError as error:
        raise UsageError(
            f"{path}: not a result of tri-serve load, format {FORMAT} ({_mistakes(error.error_count())})",
            hint="result.json of a run's folder is one",
        ) from error


def _mistakes(count: int) -> str:
    return "1 mistake" if count == 1 else f"{count} mistakes"


def _runs_in(folder: Path) -> str | None:
    """What to name in place of a folder that holds the folders of several runs."""
    runs = sorted(found.parent for found in folder.glob("*/result.json")) if folder.is_dir() else []
    if not runs:
        return None
    return f"it holds {len(runs)} runs, the first in {runs[0]}; all of them: {folder}/*/result.json"


def print_reports(paths: Sequence[Path], html: Path | None, vllm_json: Path | None, output: str) -> None:
    """``load report``."""
    from tri_serve.errors import UsageError
    from tri_serve.load.results.page import page
    from tri_serve.load.results.text import report
    from tri_serve.load.results.vllm_json import vllm_json as as_vllm

    results = [read_result(path) for path in paths]
    if vllm_json is not None:
        if len(results) != 1:
            raise UsageError("--vllm-json takes one result")
        _write("--vllm-json", vllm_json, json.dumps(as_vllm(results[0])) + "\n")
        click.echo(f"wrote {vllm_json}", err=True)
    if html is not None:
        _write("--html", html, page(results[0], results[1:]))
        click.echo(f"wrote {html}", err=True)
    if output != "table":
        print_data([result.model_dump(mode="json") for result in results], output)
    elif html is None and vllm_json is None:
        click.echo("\n".join(report(result) for result in results), nl=False)


def _write(option: str, path: Path, text: str) -> None:
    from tri_serve.errors import UsageError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror or error}") from error


def print_compared(paths: Sequence[Path], allowed: float, output: str) -> int:
    """``load compare``: each later result against the first; 0 where none is worse, else the worst is raised."""
    from tri_serve.errors import UsageError
    from tri_serve.load.results.compare import compare, error_of
    from tri_serve.load.results.compare_text import comparison_text

    if len(paths) < 2:
        raise UsageError(
            "one result alone cannot be compared", hint="tri-serve load compare BEFORE.json AFTER.json"
        )
    base, *others = (read_rounds(path) for path in paths)
    found = [compare(base, other, allowed=allowed) for other in others]
    if output == "table":
        click.echo("\n".join(comparison_text(comparison) for comparison in found), nl=False)
    else:
        print_data([comparison.model_dump(mode="json") for comparison in found], output)
    errors = [error for error in map(error_of, found) if error is not None]
    if errors:
        raise max(errors, key=lambda error: error.exit_code)
    return 0


def read_rounds(path: Path) -> list[RunResult]:
    """The result in a file or a run's folder, or the results of a folder of rounds (``load run --repeat``)."""
    rounds = sorted(path.glob("round-*/result.json")) if path.is_dir() else []
    return [read_result(found) for found in rounds] or [read_result(path)]


def print_knee(found: Knee, folder: Path, output: str) -> None:
    """``load knee``."""
    if output != "table":
        rows = [
            {
                "rate": point.rate,
                "slo_met": point.result.verdict.slo_met,
                "verdict": point.result.verdict.level.value,
                "goodput": point.result.figures.goodput.share,
                "run": point.result.run,
            }
            for point in found.points
        ]
        data = {
            "kept": found.kept,
            "missed": found.missed,
            "ended_because": found.ended_because,
            "believed": found.last.believed,
            "runs": rows,
        }
        print_data(data, output)
        return
    headers = ("requests/s", "SLO", "goodput", "ttft p99", "tpot p99", "tok/s", "figures")
    print_table(headers, [_knee_row(point) for point in found.points])
    slo = found.points[0].result.verdict.slo
    click.echo()
    if found.kept is None and found.missed is None:
        click.echo(f"{slo}: no rate could be judged")
    elif found.kept is None:
        click.echo(f"{slo} was kept at none of the rates")
    elif found.missed is None:
        click.echo(f"{slo} was kept up to {found.kept:g} requests/s")
    else:
        click.echo(f"{slo} was kept at {found.kept:g} requests/s and missed at {found.missed:g}")
    if found.ended_because and found.last.believed:
        click.echo(found.ended_because)
    click.echo(f"runs: {folder}", err=True)


def _knee_row(point: Point) -> tuple[str, ...]:
    figures = point.result.figures
    share = figures.goodput.share

    def p99(name: str) -> str:
        return f"{figures.latencies[name].p99:,.0f} ms" if name in figures.latencies else "-"

    return (
        f"{point.rate:g}",
        "kept" if point.kept else "missed" if point.believed else "-",
        "-" if share is None else f"{share:.1%}",
        p99("ttft_sched"),
        p99("tpot"),
        f"{figures.steady.output_tokens_per_second:,.0f}",
        point.result.verdict.level.value,
    )


def knee_exit_code(found: Knee) -> int:
    """0 with a knee or a promise that was kept up to the highest rate; else what the last run ended with.

    Raises ClientSaturatedError where that one was not to be believed.
    """
    from tri_serve.errors import ClientSaturatedError
    from tri_serve.load.verdict import error_of

    last = found.last.result
    if not last.complete:
        return last.verdict.exit_code if last.evidence.processes_lost else 130
    if not found.last.believed:
        error = error_of(last.verdict)
        raise ClientSaturatedError(found.ended_because, hint=error.hint if error is not None else None)
    return 0 if found.kept is not None else 1
