"""``tri-serve plan``: what fits, how fast it should be, and what to change, before anything is started."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tri_serve.cli.options import SpecSelection, output_option, spec_options

if TYPE_CHECKING:
    from tri_serve.cli.plan_answer import Asked

Command = TypeVar("Command", bound=Callable[..., Any])


class PlanGroup(click.Group):
    """A group whose first command is meant where none is named: ``tri-serve plan tri-21b-awq``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``show`` before arguments that name no command."""
        first = args[0] if args else ""
        if first in self.commands or first in ctx.help_option_names:
            return super().parse_args(ctx, args)
        near = difflib.get_close_matches(first, self.commands, n=1, cutoff=0.7)
        if near and not first.startswith("-"):
            raise click.UsageError(f"no such command: {first!r}; did you mean {near[0]}?", ctx=ctx)
        return super().parse_args(ctx, ["show", *args])


@click.group(cls=PlanGroup)
def plan() -> None:
    """Say what fits, how fast it should be, and what to change.

    Nothing is started or downloaded, and no GPU is needed. Without a command: show.
    """


def question_options(command: Command) -> Command:
    """What is asked of a plan beyond the spec, passed on as ``asked``: an Asked."""
    import functools

    @click.option(
        "--context",
        metavar="TOKENS[,...]",
        help="Tokens behind each user to predict speed for. [default: 1024 and the longest allowed]",
    )
    @click.option(
        "--request-rate",
        type=click.FloatRange(min=0, min_open=True),
        metavar="N",
        help="Requests a second: how many engines do they take?",
    )
    @click.option(
        "--input-len",
        metavar="TOKENS",
        help="Prompt of a request: for the load, the SLO, and the table of speed. [default: 1024]",
    )
    @click.option(
        "--output-len",
        metavar="TOKENS",
        help="Answer to it. [default: 256]",
    )
    @click.option(
        "--slo",
        metavar="WORDS",
        help="What is promised, ttft=500ms,tpot=50ms (or ttft:500): up to how many users at once is it kept?",
    )
    @click.option(
        "--price",
        type=click.FloatRange(min=0),
        metavar="AMOUNT",
        help="Of one GPU for an hour: what does a million tokens cost? Needs --request-rate.",
    )
    @click.option(
        "--calibration",
        multiple=True,
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Measurements to predict from, as plan calibrate wrote them; your own folder's are found anyway.",
    )
    @functools.wraps(command)
    def with_question(*args: Any, **options: Any) -> Any:
        from tri_serve.cli.plan_answer import asked_of

        names = ("context", "request_rate", "input_len", "output_len", "slo", "price", "calibration")
        return command(*args, asked=asked_of(**{name: options.pop(name) for name in names}), **options)

    return with_question  # type: ignore[return-value]  # the parameters that click passes have changed


@plan.command()
@spec_options
@click.option(
    "--gpu",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Device to plan for: l4, h100, … or cpu; auto: what this machine has.",
)
@question_options
@click.option("--explain", is_flag=True, help="Add every number's formula and where it is from.")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the plan as a page with pictures too.",
)
@click.option("--force", is_flag=True, help="Replace the file of --html if it exists.")
@output_option()
def show(
    selection: SpecSelection,
    gpu: str,
    asked: Asked,
    explain: bool,
    html: Path | None,
    force: bool,
    output: str,
) -> int:
    """Show what fits, how fast, and which command starts it.

    The exit code is 12 for what cannot work.
    """
    from tri_serve.cli.notices import print_notices
    from tri_serve.cli.output import print_data, print_notes, terminal_width
    from tri_serve.cli.plan_answer import REFUSED, Answer, answer
    from tri_serve.cli.plan_explain import explanation
    from tri_serve.cli.plan_screen import screen

    found: Answer = answer(selection, gpu, asked, advise=True)
    print_notes(found.warnings, label="warning")
    print_notes(found.notes)
    print_notices(found.notices)
    if html is not None:
        from tri_serve.cli.config import write_file
        from tri_serve.plan.page import page

        text = page(found.plan, title=found.title, start=found.start, terms=found.notices, notes=found.notes)
        write_file(html, text, force=force)
        click.echo(f"wrote {html}", err=True)
    if output != "table":
        print_data(found.plan.model_dump(mode="json"), output)
    else:
        width = terminal_width()
        for line in screen(found.plan, width=width, unicode=takes_unicode(), start=found.start):
            click.echo(line)
        for line in explanation(found.plan, width=width) if explain else ():
            click.echo(line)
    return REFUSED if found.plan.refused else 0


@plan.command()
@click.argument("gpus", metavar="GPU,GPU,...")
@spec_options
@question_options
@output_option()
def compare(gpus: str, selection: SpecSelection, asked: Asked, output: str) -> int:
    """Show several GPUs side by side: l4,l40s,h100.

    `all` stands for the whole catalogue. A GPU for which the preset has settings of its own is shown with them.
    The exit code is 12 if it works on none.
    """
    from tri_serve.cli.output import print_data
    from tri_serve.cli.plan_tables import compared, exit_code, print_compared

    rows = compared(selection, gpus, asked)
    if output == "table":
        print_compared(rows)
    else:
        print_data([row.data()["plan"] or {"gpu": row.name, "error": row.why} for row in rows], output)
    return exit_code(rows)


@plan.command()
@spec_options
@click.option(
    "--vary",
    multiple=True,
    required=True,
    metavar="KEY=VALUE,VALUE,...",
    help="Plan with each value: a key of the spec (max_model_len=4k,8k), gpu or preset. Repeat it: all pairs.",
)
@click.option(
    "--gpu", default="auto", show_default=True, metavar="NAME", help="Device to plan for, as in plan show."
)
@question_options
@output_option()
def sweep(selection: SpecSelection, vary: tuple[str, ...], gpu: str, asked: Asked, output: str) -> int:
    """Show what comes of several values of a setting.

    The exit code is 12 if no row works.

    \b
    tri-serve plan sweep tri-21b-awq --gpu l4 --vary max_model_len=2048,4096,8192
    tri-serve plan sweep --vary preset=tri-21b-awq,tri-21b-bf16 --vary gpu=l4,h100
    """
    from tri_serve.cli.output import print_data
    from tri_serve.cli.plan_tables import exit_code, print_swept, swept

    keys, plans = swept(selection, vary, gpu, asked)
    if output == "table":
        print_swept(keys, plans)
    else:
        print_data(
            [{"values": dict(values), **row.data()} for values, row in plans],
            output,
        )
    return exit_code([row for _, row in plans])


@plan.command()
@click.argument("results", nargs=-1, required=True, metavar="RESULT.json...", type=click.Path(path_type=Path))
@click.option("--preset", default="tri-21b-awq", show_default=True, help="The model that was measured.")
@click.option("--source", metavar="CHECKPOINT", help="Its checkpoint, where the preset leaves it to you.")
@click.option("--gpu", metavar="NAME", help="The device, where the results do not name it.")
@click.option("--engine-version", metavar="VERSION", help="vLLM's, where the results do not name it.")
@click.option("--tensor-parallel-size", type=click.IntRange(min=1), help="GPUs of one engine. [default: 1]")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the fitted shares go. [default: your own folder, where plans find them]",
)
def calibrate(
    results: tuple[Path, ...],
    preset: str,
    source: str | None,
    gpu: str | None,
    engine_version: str | None,
    tensor_parallel_size: int | None,
    output: Path | None,
) -> None:
    """Fit predictions to what you measured.

    RESULT.json is what `vllm bench serve --save-result` writes, or a list of measurements. Plans for that GPU,
    engine version and quantization are called calibrated from then on.
    """
    from tri_serve.cli.plan_calibrate import calibrated

    calibrated(
        results,
        preset=preset,
        source=source,
        gpu=gpu,
        version=engine_version,
        tensor_parallel=tensor_parallel_size,
        output=output,
    )


def takes_unicode() -> bool:
    """Whether what is written to stdout may hold block characters."""
    if sys.stdout is None:  # closed: nothing is written
        return False
    try:
        "█▓▒▚░·".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
