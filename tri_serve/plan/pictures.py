"""The pictures of a plan's page, as SVG that takes its colours from the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape
from typing import TypeAlias

from tri_serve.plan.memory_parts import memory_parts
from tri_serve.plan.result import DecodePoint, MemoryPlan, SpeedPlan
from tri_serve.plan.words import gib, number, rate_of_each

_Across: TypeAlias = Callable[[int], float]
_Up: TypeAlias = Callable[[float], float]

_WIDTH = 860
_ROW = 20
_SIGN = 12


def memory_picture(memory: MemoryPlan) -> str:
    """One GPU's memory as a bar, true to scale, with a line where the engine's own share ends."""
    parts = memory_parts(memory)
    total = sum(part.nbytes for part in parts)
    shapes: list[str] = []
    begin = 0.0
    for part in parts:
        width = part.nbytes * _WIDTH / total
        shapes.append(
            f'<rect x="{begin:.1f}" y="22" width="{width:.1f}" height="44" fill="var(--{part.role})">'
            f"<title>{escape(part.name)}: {gib(part.nbytes)}</title></rect>"
        )
        begin += width
    limit = min(memory.requested / total, 1.0) * _WIDTH
    anchor = "end" if limit > _WIDTH / 2 else "start"
    shapes.append(
        f'<line x1="{limit:.1f}" x2="{limit:.1f}" y1="16" y2="72" stroke="var(--text)" stroke-width="1.5"/>'
        f'<text x="{limit:.1f}" y="11" text-anchor="{anchor}" class="soft">'
        f"the engine may take {gib(memory.requested)}</text>"
    )
    columns = 3
    for index, part in enumerate(parts):
        left = (index % columns) * (_WIDTH / columns)
        top = 88 + (index // columns) * _ROW
        shapes.append(
            f'<rect x="{left:.1f}" y="{top}" width="{_SIGN}" height="{_SIGN}" fill="var(--{part.role})"/>'
            f'<text x="{left + _SIGN + 6:.1f}" y="{top + 11}">{escape(part.name)} {gib(part.nbytes)}</text>'
        )
    height = 88 + math.ceil(len(parts) / columns) * _ROW
    words = "; ".join(f"{part.name} {gib(part.nbytes)}" for part in parts)
    return _svg(height, f"Memory: {words}", shapes)


_LEFT, _RIGHT, _TOP, _BOTTOM, _TALL = 56, 150, 16, 46, 300


def speed_picture(speed: SpeedPlan) -> str:
    """Tokens a second of each user by users at once (both axes logarithmic), a band for each length of context."""
    contexts = tuple(dict.fromkeys(point.context for point in speed.decode))
    points = {
        context: [point for point in speed.decode if point.context == context and point.fits]
        for context in contexts
    }
    points = {context: found for context, found in points.items() if found}
    if not points:
        return ""
    every = [point for found in points.values() for point in found]
    rates = [value for point in every for value in (rate_of_each(point).low, rate_of_each(point).high)]
    low, high = _decade(min(rates), down=True), _decade(max(rates), down=False)
    most = max(2, *(point.batch for point in every))

    def across(batch: int) -> float:
        return _LEFT + math.log(batch) / math.log(most) * (_WIDTH - _LEFT - _RIGHT)

    def up(rate: float) -> float:
        height = _TALL - _TOP - _BOTTOM
        return _TOP + (1 - math.log(rate / low) / math.log(high / low)) * height

    shapes = _grid(low, high, sorted({point.batch for point in every}), across, up)
    last_label = 0.0
    for index, (context, found) in enumerate(points.items()):
        colour = f"var({('--weights', '--cache', '--working', '--driver')[index % 4]})"
        shapes.append(_band(found, colour, across, up))
        label = max(up(rate_of_each(found[-1]).likely) + 4, last_label + 16 if index else 0.0)
        last_label = label
        shapes.append(
            f'<text x="{across(found[-1].batch) + 8:.1f}" y="{label:.1f}">{context:,} tokens each</text>'
        )
    return _svg(_TALL, "Tokens a second for each user, by users at once", shapes)


def _band(found: list[DecodePoint], colour: str, across: _Across, up: _Up) -> str:
    def path(pairs: list[tuple[int, float]]) -> str:
        return " ".join(f"{across(batch):.1f},{up(rate):.1f}" for batch, rate in pairs)

    rates = [(point.batch, rate_of_each(point)) for point in found]
    outline = [(batch, rate.high) for batch, rate in rates] + [
        (batch, rate.low) for batch, rate in reversed(rates)
    ]
    likely = [(batch, rate.likely) for batch, rate in rates]
    dots = "".join(
        f'<circle cx="{across(batch):.1f}" cy="{up(rate):.1f}" r="3" fill="{colour}">'
        f"<title>{batch:,} users: {number(rate)} tokens/s for each</title></circle>"
        for batch, rate in likely
    )
    return (
        f'<polygon points="{path(outline)}" fill="{colour}" opacity="0.18"/>'
        f'<polyline points="{path(likely)}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}'
    )


def _grid(low: float, high: float, batches: list[int], across: _Across, up: _Up) -> list[str]:
    shapes = []
    for value in _ticks(low, high):
        height = up(value)
        shapes.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}" '
            f'stroke="var(--line)"/><text x="{_LEFT - 8}" y="{height + 4:.1f}" text-anchor="end" class="soft">'
            f"{number(value)}</text>"
        )
    taken = -math.inf
    for batch in batches:
        place = across(batch)
        if place - taken < 34:  # two numbers would run into each other
            continue
        taken = place
        shapes.append(
            f'<text x="{place:.1f}" y="{_TALL - _BOTTOM + 18}" text-anchor="middle" class="soft">{batch:,}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    shapes.append(
        f'<text x="{middle:.1f}" y="{_TALL - 8}" text-anchor="middle" class="soft">users at once</text>'
    )
    return shapes


def _decade(value: float, *, down: bool) -> float:
    """The nearest of 1, 2 or 5 times a power of ten that is not above, or not below, ``value``."""
    power = 10.0 ** math.floor(math.log10(value))
    steps = [power * step for step in (1, 2, 5, 10)]
    return max(step for step in steps if step <= value) if down else min(s for s in steps if s >= value)


def _ticks(low: float, high: float) -> list[float]:
    ticks = []
    power = 10.0 ** math.floor(math.log10(low))
    while power <= high:
        ticks += [power * step for step in (1, 2, 5) if low <= power * step <= high]
        power *= 10
    return ticks


def _svg(height: float, words: str, shapes: list[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(words)}">'
        + "\n".join(shapes)
        + "</svg>"
    )
