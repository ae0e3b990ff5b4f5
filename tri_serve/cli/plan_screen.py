"""The plan on one screen: whether it fits, how many users, about how fast, which command, what to change."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import click

from tri_serve.cli.columns import Column, columns
from tri_serve.cli.memory_bar import ASCII_BLOCKS, BLOCKS, bar, legend
from tri_serve.plan.memory_parts import memory_parts
from tri_serve.plan.result import Change, DecodePoint, DemandPlan, Finding, MemoryPlan, Plan, SpeedPlan
from tri_serve.plan.words import (
    device_words,
    engine_words,
    engines_words,
    evidence_words,
    gib,
    options_of,
    parameters_words,
    rate_of_each,
    seconds,
    span,
    users_words,
)

_LABEL = 10


def screen(plan: Plan, *, width: int, unicode: bool = True, start: str | None = None) -> list[str]:
    """The lines of the screen, at most ``width`` columns wide but for the commands, which are to be copied.

    ``start`` is the command of ours that starts it.
    """
    lines = [verdict(plan), *_facts(plan, width)]
    for severity in ("refusal", "warning", "note"):
        for finding in plan.findings:
            if finding.severity == severity:
                lines += _finding(finding, width)
    if plan.memory is not None and (not plan.refused or not plan.memory.fits):
        lines += ["", *_memory(plan, plan.memory, width, unicode)]
    if plan.speed is not None:
        lines += ["", *_speed(plan.speed, width)]
    if plan.demand is not None:
        lines += ["", *_demand(plan.demand, width)]
    if plan.changes:
        lines += ["", *_changes(plan.changes, width)]
    commands = {"start": start, "engine": plan.command}
    if any(commands.values()):
        lines.append("")
    return lines + [f"{label:{_LABEL}}{command}" for label, command in commands.items() if command]


def verdict(plan: Plan) -> str:
    """One line: works or not, and with how many users."""
    where = device_words(plan)
    if plan.refused:
        return f"{click.style('does not work', fg='red', bold=True)} on {where}"
    if plan.memory is None:
        return f"works on {where}"
    return f"{click.style('fits', fg='green', bold=True)} on {where}: {users_words(plan.memory)}"


def _facts(plan: Plan, width: int) -> list[str]:
    model = plan.model
    quantization = "" if model.quantization == "none" else f"{model.quantization}, "
    weights = f"{quantization}{gib(model.weight_bytes)} of weights"
    lines = _labelled(
        "model",
        f"{parameters_words(model.parameters)} in {model.layers} layers, {weights}; {model.origin}",
        width,
    )
    for remark in model.remarks:
        lines += _labelled("", remark, width)
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
    share = f"{gib(memory.total)}{each}, of which the engine takes {gib(memory.requested)}"
    if memory.kv_bytes < 0:
        share = f"{gib(memory.total)}{each}; {gib(-memory.kv_bytes)} are missing before any KV cache"
    parts, blocks = memory_parts(memory), BLOCKS if unicode else ASCII_BLOCKS
    lines = _labelled("memory", share, width)
    lines += [" " * _LABEL + line for line in (bar(parts, room, blocks), *legend(parts, room, blocks))]
    if memory.kv_bytes >= 0:
        cache = (
            f"KV cache of {memory.kv_tokens:,} tokens in {memory.kv_dtype}: "
            f"{memory.full_length_sequences:.2f} x {memory.max_model_len:,}"
        )
        lines += _labelled("", cache, width)
    return lines


def _speed(speed: SpeedPlan, width: int) -> list[str]:
    lines = _labelled("speed", f"a prediction from {evidence_words(speed)}", width)
    heads = (
        Column("users", number=True),
        Column("tokens each", number=True),
        Column("tokens/s for each", number=True),
        Column("all together", number=True),
    )
    rows = [
        (
            f"{point.batch:,}",
            f"{point.context:,}",
            span(rate_of_each(point)),
            span(point.rate),
        )
        for point in _telling(speed.decode)
    ]
    lines += [" " * _LABEL + line for line in columns(heads, rows, width=width - _LABEL)]
    firsts = "; ".join(
        f"{seconds(point.ttft)} for a prompt of {point.tokens:,} tokens" for point in speed.prefill
    )
    if firsts:
        lines += _labelled("", f"first token of a user alone after {firsts}", width)
    if speed.largest_batch_for_slo is not None:
        kept = speed.largest_batch_for_slo
        length = speed.decode[0].context
        words = f"likely kept up to {kept:,} users at once" if kept else "not kept even for one user"
        lines += _labelled("", f"the TPOT asked for is {words}, with {length:,} tokens each", width)
    return lines


def _telling(points: Sequence[DecodePoint]) -> list[DecodePoint]:
    """Of each length of context one user alone, as many as can be, and one between: enough for a screen."""
    shown: list[DecodePoint] = []
    for context in dict.fromkeys(point.context for point in points):
        fitting = [point for point in points if point.context == context and point.fits]
        if fitting:
            middle = fitting[(len(fitting) - 1) // 2]
            shown += dict.fromkeys((fitting[0], middle, fitting[-1]))
    return shown


def _demand(demand: DemandPlan, width: int) -> list[str]:
    asked = (
        f"{demand.request_rate:g} requests/s of {demand.input_len:,} + {demand.output_len:,} tokens: "
        f"{engines_words(demand)}; what sets it: {demand.limited_by}"
    )
    lines = _labelled("load", asked, width)
    if demand.cost_per_million_output_tokens is not None:
        cost = f"{span(demand.cost_per_million_output_tokens)} for a million output tokens"
        if demand.cost_per_million_tokens is not None:
            cost += f", {span(demand.cost_per_million_tokens)} with prompt tokens counted"
        lines += _labelled("", cost, width)
    return lines


def _changes(changes: Sequence[Change], width: int) -> list[str]:
    lines: list[str] = []
    for change in changes:
        words = f"{options_of(change.keys, change.gpu)}: {change.effect}"
        lines += _labelled("" if lines else "change", words, width)
    return lines


def _labelled(label: str, text: str, width: int, *, colour: str | None = None) -> list[str]:
    wrapped = textwrap.wrap(text, width - _LABEL, break_on_hyphens=False, break_long_words=False) or [""]
    head = click.style(label.ljust(_LABEL), fg=colour, bold=colour is not None)
    return [head + wrapped[0], *(" " * _LABEL + line for line in wrapped[1:])]
