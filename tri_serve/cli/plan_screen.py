"""The plan on one screen: whether it fits, how many users, about how fast, which command, what to change."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence

import click

from tri_serve.cli.columns import Column, columns
from tri_serve.cli.memory_bar import ASCII_BLOCKS, BLOCKS, bar, legend
from tri_serve.cli.output import display_width
from tri_serve.plan.memory_parts import memory_parts
from tri_serve.plan.result import Change, DecodePoint, DemandPlan, Finding, MemoryPlan, Plan, SpeedPlan
from tri_serve.plan.words import (
    change_words,
    device_words,
    engine_words,
    engines_words,
    evidence_words,
    fleet_words,
    gib,
    options_of,
    parameters_words,
    rate_of_each,
    seconds,
    slo_words,
    span,
    too_few_words,
    unknown_speed_words,
    weights_words,
)
from tri_serve.render.text import grouped

_LABEL = 10
_CONTINUED = " \\"


def screen(plan: Plan, *, width: int, unicode: bool = True, start: str | None = None) -> list[str]:
    """The lines of the screen, at most ``width`` columns wide unless one word is longer.

    ``start`` is the command of ours that starts it.
    """
    lines = [*verdict(plan, width), *_facts(plan, width)]
    planned = plan.memory is not None and not plan.refused
    for severity in ("refusal", "warning", "note"):
        for finding in plan.findings:
            if finding.severity == severity:
                lines += _finding(finding, width)
    if plan.memory is not None and (planned or not plan.memory.fits):
        lines += _memory(plan, plan.memory, width, unicode)
    if plan.speed is not None:
        lines += _speed(plan.speed, width)
    elif planned:
        lines += _labelled("speed", unknown_speed_words(plan), width)
    if plan.slo is not None:
        lines += _labelled("slo", slo_words(plan.slo), width)
    if plan.demand is not None:
        lines += _demand(plan.demand, width)
        if few := too_few_words(plan):
            lines += _labelled(
                "",
                few,
                width,
                colour="yellow",
            )
    lines += _changes(plan.changes, width)
    if start:
        lines += ["", *command_lines(start, width)]
    if plan.command:
        # A comment, so that all of it can be copied as it stands.
        lines += ["# or the engine alone:" if start else "", *command_lines(plan.command, width)]
    return lines


def verdict(plan: Plan, width: int) -> list[str]:
    """Works or not, and with how many users: one line where it is wide enough."""
    where = device_words(plan)
    if plan.refused:
        word, colour, rest = "does not work", "red", f"on {where}"
    elif plan.memory is None:
        return textwrap.wrap(f"works on {where}", width)
    elif not plan.memory.fits:
        word, colour, rest = "may fit", "yellow", f"on {where}: that is not worked out here"
    else:
        word, colour, rest = "fits", "green", f"on {where}: {fleet_words(plan)}"
    first, *more = textwrap.wrap(f"{word} {rest}", width, subsequent_indent=" " * _LABEL)
    return [click.style(word, fg=colour, bold=True) + first.removeprefix(word), *more]


def _facts(plan: Plan, width: int) -> list[str]:
    model = plan.model
    quantization = "" if model.quantization == "none" else f"{model.quantization}, "
    weights = f"{quantization}{weights_words(plan)}"
    lines = _labelled(
        "model",
        f"{parameters_words(model.parameters)} in {model.layers} layers, {weights}; {model.origin}",
        width,
    )
    for remark in model.remarks:
        said, _, why = remark.partition(": ")
        lines += _labelled("", f"{said} (--explain)" if why else said, width)
    return lines + _labelled("engine", engine_words(plan), width)


def _finding(finding: Finding, width: int) -> list[str]:
    label = {"refusal": "refused", "warning": "warning", "note": "note"}[finding.severity]
    colour = {"refusal": "red", "warning": "yellow", "note": None}[finding.severity]
    lines = _labelled(label, finding.message, width, colour=colour)
    if finding.change:
        lines += _labelled("", f"works: {options_of(finding.change)}", width)
    if finding.advice:
        lines += _labelled("", finding.advice, width)
    return lines


def _memory(plan: Plan, memory: MemoryPlan, width: int, unicode: bool) -> list[str]:
    room = width - _LABEL
    each = " of each GPU" if plan.device.count > 1 else ""
    share = (
        f"{gib(memory.total)}{each}, the engine's {gib(memory.requested)}; "
        f"KV cache {memory.kv_tokens:,} tokens in {memory.kv_dtype}"
    )
    if memory.kv_bytes < 0:
        share = f"{gib(memory.total)}{each}; {gib(-memory.kv_bytes)} are missing before any KV cache"
    parts, blocks = memory_parts(memory), BLOCKS if unicode else ASCII_BLOCKS
    lines = _labelled("memory", share, width)
    return lines + [" " * _LABEL + line for line in (bar(parts, room, blocks), *legend(parts, room, blocks))]


def _speed(speed: SpeedPlan, width: int) -> list[str]:
    lines = _labelled("speed", f"a prediction from {evidence_words(speed)}", width)
    heads = (
        Column("users", number=True),
        Column("context", number=True),
        Column("tokens/s each", number=True),
        Column("all together", number=True),
        Column("first token alone", number=True),
    )
    firsts = {point.tokens: seconds(point.ttft) for point in speed.prefill}
    rows = [
        (
            f"{point.batch:,}",
            f"{point.context:,}",
            span(rate_of_each(point)),
            span(point.rate),
            firsts.get(point.context, "") if point.batch == 1 else "",
        )
        for point in _telling(speed.decode)
    ]
    table = columns(heads, rows, width=width - _LABEL, fold=True)
    indent = max(0, min(_LABEL, width - max(map(display_width, table))))
    return [*lines, *(" " * indent + line for line in table)]


def _telling(points: Sequence[DecodePoint]) -> list[DecodePoint]:
    """Of each length of context one user alone, and as many as can be: enough for a screen."""
    shown: list[DecodePoint] = []
    for context in dict.fromkeys(point.context for point in points):
        fitting = [point for point in points if point.context == context and point.fits]
        shown += dict.fromkeys((*fitting[:1], *fitting[-1:]))
    return shown


def command_lines(command: str, width: int) -> list[str]:
    """A shell command in lines that a shell reads as one, cut between options and never within one."""
    lines: list[str] = []
    first, *options = grouped(shlex.split(command))
    for group in (*((word,) for word in first), *options):
        words = " ".join(map(_quoted, group))
        if lines and len(lines[-1]) + 1 + len(words) + len(_CONTINUED) <= width:
            lines[-1] += f" {words}"
        else:
            lines.append(f"    {words}" if lines else words)
    return [line + _CONTINUED for line in lines[:-1]] + lines[-1:]


def _quoted(word: str) -> str:
    """A word for the shell; of a variable that is set, only the value may stand in quotes."""
    name, equals, value = word.partition("=")
    return f"{name}={shlex.quote(value)}" if equals and name.isidentifier() else shlex.quote(word)


def _demand(demand: DemandPlan, width: int) -> list[str]:
    rate = f"{demand.request_rate:g} request{'s' * (demand.request_rate != 1)}/s"
    asked = (
        f"{rate} of {demand.input_len:,} + {demand.output_len:,} tokens: {engines_words(demand)}; "
        f"what sets it: {demand.limited_by}"
    )
    lines = _labelled("load", asked, width)
    if demand.cost_per_million_output_tokens is not None:
        cost = f"{span(demand.cost_per_million_output_tokens)} for a million output tokens"
        if demand.cost_per_hour is not None:
            cost = f"{span(demand.cost_per_hour)} an hour; {cost}"
        if demand.cost_per_million_tokens is not None:
            cost += f", {span(demand.cost_per_million_tokens)} with prompt tokens counted"
        lines += _labelled("", f"at {demand.price:g} for a GPU and hour: {cost}", width)
    return lines


def _changes(changes: Sequence[Change], width: int) -> list[str]:
    lines: list[str] = []
    for change in changes:
        lines += _labelled("" if lines else "change", change_words(change), width)
    return lines


def _labelled(label: str, text: str, width: int, *, colour: str | None = None) -> list[str]:
    wrapped = textwrap.wrap(text, width - _LABEL, break_on_hyphens=False, break_long_words=False) or [""]
    filled = label.ljust(_LABEL)
    head = click.style(filled, fg=colour, bold=True) if colour else click.style(filled, dim=True)
    if not label:
        head = filled
    return [head + wrapped[0], *(" " * _LABEL + line for line in wrapped[1:])]
