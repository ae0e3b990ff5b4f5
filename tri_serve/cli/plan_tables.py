"""Several plans side by side: ``plan compare`` and ``plan sweep``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from tri_serve.cli.columns import Column, columns
from tri_serve.cli.notices import print_notices
from tri_serve.cli.options import SpecSelection
from tri_serve.cli.output import print_notes, terminal_width
from tri_serve.cli.plan_answer import REFUSED, Answer, Asked, answer
from tri_serve.cli.plan_device import AUTO
from tri_serve.errors import TooLongError, UsageError
from tri_serve.plan.catalogue import CPU, find_gpu, load_catalogue
from tri_serve.plan.result import DemandPlan, SpeedPlan
from tri_serve.plan.words import engines_words, evidence_words, rate_of_each, span
from tri_serve.spec.keys import catalogue as spec_keys
from tri_serve.spec.preset import preset_names
from tri_serve.spec.secrets import mask_text

MOST_PLANS = 256
"""Of one sweep: more is a mistyped list, and no table that anybody reads."""
_PRESET, _GPU = "preset", "gpu"
_USERS, _KV, _ALONE, _TOGETHER = "users", "KV tokens", "one alone", "all together"
_ENGINES, _IN_SLO, _COST = "engines", "users in SLO", "cost/M out"

Values = Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """One line of a table, and the plan behind it."""

    name: str
    """What is planned there: a GPU, or the values that vary."""
    answer: Answer | None
    """None: a length that is asked about is too long there."""
    why: str = ""
    """Why there is no plan."""

    def data(self) -> dict[str, Any]:
        """The plan for programs, or why there is none."""
        if self.answer is None:
            return {"plan": None, "error": self.why}
        return {"plan": self.answer.plan.model_dump(mode="json")}


def compared(selection: SpecSelection, gpus: str, asked: Asked) -> list[Row]:
    """A plan for each GPU of ``l4,l40s,h100``, or of the whole catalogue for ``all``. Raises UsageError."""
    names = [name for name in load_catalogue() if name != CPU] if gpus == "all" else _words(gpus)
    if not names:
        raise UsageError("no GPU is named to compare; name some as l4,l40s,h100, or all")
    if gpus in preset_names():
        second = selection.preset or "all"
        raise UsageError(
            f"plan compare {gpus}: the GPUs come first, and then the preset",
            hint=f"tri-serve plan compare {second} {gpus}",
        )
    # l4 and L4 are one row.
    kinds = {name if name == AUTO else find_gpu(name).name: name for name in reversed(names)}
    return [_row(name, selection, kind, asked) for kind, name in reversed(kinds.items())]


def exit_code(rows: Sequence[Row]) -> int:
    """That of a refused plan where not one of them works."""
    works = (row.answer is not None and not row.answer.plan.refused for row in rows)
    return 0 if any(works) else REFUSED


def print_compared(rows: Sequence[Row]) -> None:
    """One line a GPU, then why those do not work that do not."""
    answers = _answers(rows)
    _print_notes(answers)
    heads = _heads(answers)
    shown = [Column("gpu"), Column("each", number=True), *_numbers(heads)]
    _print(shown, [[*_device(row), *_cells(row, heads)] for row in rows])
    _print_refusals(rows)
    _print_evidence(answers)


def swept(
    selection: SpecSelection, vary: Sequence[str], gpu: str, asked: Asked
) -> tuple[list[str], list[tuple[Values, Row]]]:
    """The keys that vary, and a row for each combination of their values. Raises UsageError."""
    choices: dict[str, list[str]] = {}
    for assignment in vary:
        name, equals, text = assignment.partition("=")
        if not equals or not _words(text):
            raise UsageError(f"--vary {assignment}: takes KEY=VALUE,VALUE, such as max_model_len=4096,8192")
        key = _key(name.strip())
        if key in choices:
            raise UsageError(f"--vary: {key} is given twice")
        choices[key] = _words(text)
    combinations = list(itertools.product(*choices.values()))
    if len(combinations) > MOST_PLANS:
        raise UsageError(f"--vary: {len(combinations):,} combinations; at most {MOST_PLANS} are planned")
    plans: list[tuple[Values, Row]] = []
    for values in combinations:
        chosen = dict(zip(choices, values, strict=True))
        shown = {key: mask_text(key, value) for key, value in chosen.items()}
        plans.append((shown, _row_for(selection, chosen, ", ".join(shown.values()), gpu, asked)))
    return list(choices), plans


def print_swept(keys: Sequence[str], plans: Sequence[tuple[Values, Row]]) -> None:
    """One line a combination, then why those do not work that do not."""
    answers = _answers([row for _, row in plans])
    _print_notes(answers)
    short = [key.rpartition(".")[2] for key in keys]
    heads = _heads(answers)
    shown = [*(Column(name) for name in short), *_numbers(heads)]
    _print(shown, [[*values.values(), *_cells(row, heads)] for values, row in plans])
    _print_refusals([row for _, row in plans])
    _print_evidence(answers)


def _answers(rows: Sequence[Row]) -> list[Answer]:
    return [row.answer for row in rows if row.answer is not None]


def _row(name: str, selection: SpecSelection, gpu: str, asked: Asked) -> Row:
    """The plan for ``gpu``, or why the lengths that are asked about do not go with it."""
    try:
        return Row(name, answer(selection, gpu, asked))
    except TooLongError as error:
        return Row(name, None, error.message)


def _row_for(selection: SpecSelection, values: Values, name: str, gpu: str, asked: Asked) -> Row:
    sets = [f"{key}={value}" for key, value in values.items() if key not in (_PRESET, _GPU)]
    chosen = replace(
        selection,
        preset=values.get(_PRESET, selection.preset),
        # Above what else was set: this is what varies.
        sets=(*selection.sets, *sets),
    )
    return _row(name, chosen, values.get(_GPU, gpu), asked)


def _key(name: str) -> str:
    """The dotted key of the spec that ``name`` means: itself, or the only one that ends so."""
    if name in (_PRESET, _GPU):
        return name
    known = [key.dotted for key in spec_keys().values() if not key.is_section]
    fitting = [key for key in known if key == name or key.endswith(f".{name}")]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"--vary {name}: {' and '.join(fitting)} end so; write one of them out")
    raise UsageError(
        f"--vary {name}: no key of the spec ends so; preset and gpu vary too",
        hint="docs/reference/spec.md lists the keys",
    )


def _heads(answers: Sequence[Answer]) -> list[str]:
    """The columns that the rows have together: a row without one of them has a dash there."""
    demands = [found.plan.demand for found in answers if found.plan.demand is not None]
    speeds = [_ALONE, _TOGETHER]
    if demands:
        # What a load takes is the question then, and a terminal has 80 columns.
        heads = [_USERS, *speeds, _ENGINES]
    elif any(found.plan.slo is not None for found in answers):
        heads = [_USERS, *speeds, _IN_SLO]
    else:
        heads = [_USERS, _KV, *speeds]
    if any(demand.cost_per_million_output_tokens is not None for demand in demands):
        heads.append(_COST)
    return heads


def _numbers(heads: Sequence[str]) -> list[Column]:
    return [Column(head, number=True) for head in heads]


def _device(row: Row) -> list[str]:
    if row.answer is None:
        return [row.name, "-"]
    return [row.answer.plan.device.name, str(row.answer.plan.device.count)]


def _cells(row: Row, heads: Sequence[str]) -> list[str]:
    if row.answer is None:
        return ["no"]
    plan = row.answer.plan
    if plan.refused or plan.memory is None:
        return ["no"]
    if not plan.memory.fits:
        return ["unknown"]
    length = plan.memory.max_model_len
    cells = {_USERS: f"{plan.memory.users:,} x {length:,}", _KV: f"{plan.memory.kv_tokens:,}"}
    if plan.speed is not None:
        cells |= _speed_cells(plan.speed, length)
    if plan.demand is not None:
        cells |= _load_cells(plan.demand)
    if plan.slo is not None:
        cells[_IN_SLO] = span(plan.slo.users)
    return [cells.get(head, "-") for head in heads]


def _speed_cells(speed: SpeedPlan, length: int) -> dict[str, str]:
    """One user alone with the shortest context, and as many as there can be with the longest."""
    fitting = [point for point in speed.decode if point.fits]
    full = [point for point in fitting if point.context == length] or fitting
    alone = {_ALONE: span(rate_of_each(speed.decode[0]))}
    return alone | ({_TOGETHER: span(full[-1].rate)} if full else {})


def _load_cells(demand: DemandPlan) -> dict[str, str]:
    engines = engines_words(demand).rpartition(" ")[0] if demand.replicas is not None else "none"
    cost = demand.cost_per_million_output_tokens
    return {_ENGINES: engines} | ({_COST: span(cost)} if cost is not None else {})


def _print(heads: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    filled = [[*row, *["-"] * (len(heads) - len(row))] for row in rows]
    for line in columns(heads, filled, width=terminal_width(), fold=True):
        click.echo(line)


def _print_refusals(rows: Sequence[Row]) -> None:
    for row in rows:
        findings = () if row.answer is None else row.answer.plan.findings
        whys = [finding.message for finding in findings if finding.severity == "refusal"]
        if row.why:
            whys = [row.why]
        if whys:
            more = f" (and {len(whys) - 1} more)" if len(whys) > 1 else ""
            text = f"{row.name}: {whys[0]}{more}"
            click.echo()
            click.echo(click.wrap_text(text, terminal_width(), subsequent_indent="  "))


def _print_evidence(answers: Sequence[Answer]) -> None:
    said = dict.fromkeys(evidence_words(found.plan.speed) for found in answers if found.plan.speed)
    if said:
        text = f"tokens/s: a prediction from {'; or '.join(said)}"
        click.echo()
        click.echo(click.wrap_text(text, terminal_width()))


def _print_notes(answers: Sequence[Answer]) -> None:
    print_notes(dict.fromkeys(words for found in answers for words in found.warnings), label="warning")
    print_notes(dict.fromkeys(note for found in answers for note in found.notes))
    print_notices(notice for found in answers for notice in found.notices)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
