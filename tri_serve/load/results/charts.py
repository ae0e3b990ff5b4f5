"""Charts as SVG, drawn here: a page that is one file needs no library and no network.

Colours are CSS variables of the page (``--s1`` …), so that a chart follows light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

_WIDTH, _HEIGHT = 460, 270
"""Units of the drawing; a page scales it. Text of 12 units stays legible where a phone makes it 0.75 of that."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 40

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or one set of points. ``style`` 1 to 5 picks its colour and its dashes."""

    label: str
    points: Sequence[Point]
    style: int = 1
    marks: bool = False
    """Points, not a line."""
    labels: Sequence[str] = ()
    """What a pointer over each point says."""


@dataclass(frozen=True, slots=True)
class Chart:
    """What to draw. Axes begin at 0 but for a logarithmic x."""

    title: str
    note: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = False
    y_top: float | None = None
    """Where the y axis ends; by itself above the highest point."""
    shaded: Sequence[Point] = ()
    """From x to x each: not part of what was counted."""
    bars: bool = False
    """Bars from the axis instead of lines, one series upon the other."""


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high, value = (self._linear(it) for it in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.0
        return self.begin + (self.end - self.begin) * min(max(share, 0.0), 1.0)

    def _linear(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.log else value


def draw(chart: Chart) -> str:
    """A ``figure`` element: title, legend, drawing, note. Without points it says that there is nothing to draw."""
    points = [point for series in chart.series for point in series.points]
    head = f"<figcaption>{escape(chart.title)}</figcaption>"
    if not points:
        return f'<figure class="chart">{head}<p class="none">Nothing was measured.</p></figure>'
    x, y = _scales(chart, points)
    body = [_axes(chart, x, y)]
    body += _bars(chart, x, y) if chart.bars else [_series(it, x, y) for it in chart.series]
    said = escape(f"{chart.title}. {chart.note}")
    return (
        f'<figure class="chart">{head}{_legend(chart)}'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{said}">{"".join(body)}</svg>'
        f'<p class="note">{escape(chart.note)}</p></figure>'
    )


def _scales(chart: Chart, points: Sequence[Point]) -> tuple[_Scale, _Scale]:
    xs = [x for x, _ in points if x > 0 or not chart.log_x] or [1.0]
    low, high = min(xs), max(xs)
    if chart.log_x:
        low, high = _log_floor(low), _log_ceil(high)
    elif low > 0 and not chart.shaded:
        # Points on the very edge would be cut in half.
        low, high = 0.0, _nice(high)
    if high <= low:
        high = low + 1
    tallest = _stacked(chart) if chart.bars else max(y for _, y in points)
    top = chart.y_top or _nice(tallest)
    return (
        _Scale(low, high, _LEFT, _WIDTH - _RIGHT, chart.log_x),
        _Scale(0.0, top, _HEIGHT - _BOTTOM, _TOP),
    )


def _stacked(chart: Chart) -> float:
    totals: dict[float, float] = {}
    for series in chart.series:
        for x, y in series.points:
            totals[x] = totals.get(x, 0.0) + y
    return max(totals.values())


def _log_floor(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return max(step * power for step in (1, 2, 5) if step * power <= value * 1.0001)


def _log_ceil(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return min(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.9999)


def _nice(value: float) -> float:
    """The next number of the form 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten: room above the highest point."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return min(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * 1.0001)


def _ticks(scale: _Scale, most: int) -> list[float]:
    if scale.log:
        return _log_ticks(scale, most)
    span = scale.high - scale.low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(step * power for step in (1, 2, 5, 10) if span / (step * power) <= most)
    first = math.ceil(scale.low / step - 1e-9)
    return [number * step for number in range(first, math.floor(scale.high / step + 1e-9) + 1)]


def _log_ticks(scale: _Scale, most: int) -> list[float]:
    powers = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**power for power in powers for step in steps]
        ticks = [tick for tick in ticks if scale.low * 0.999 <= tick <= scale.high * 1.001]
        if len(ticks) <= most:
            break
    return ticks


def _axes(chart: Chart, x: _Scale, y: _Scale) -> str:
    parts = []
    for begin, end in chart.shaded:
        left, width = x.at(begin), x.at(end) - x.at(begin)
        parts.append(
            f'<rect class="shade" x="{left:.1f}" y="{_TOP}" width="{width:.1f}" height="{y.begin - _TOP}"/>'
        )
    for tick in _ticks(y, 5):
        at = y.at(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{number(tick)}</text>'
        )
    for tick in _ticks(x, 7):
        at = x.at(tick)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{y.begin}" y2="{y.begin + 4}"/>')
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{y.begin + 17}" text-anchor="middle">{number(tick)}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y.begin}" y2="{y.begin}"/>')
    parts.append(
        f'<text class="label" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(chart.x_label)}</text>'
    )
    parts.append(
        f'<text class="label" text-anchor="middle" transform="translate(12 {(_TOP + y.begin) / 2}) rotate(-90)">'
        f"{escape(chart.y_label)}</text>"
    )
    return "".join(parts)


def number(value: float) -> str:
    """As short as a tick can be: 1500 as 1.5k, no digits that say nothing."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def tenths(value: float) -> str:
    """With one decimal, and no sign before a zero."""
    return f"{round(value, 1) + 0.0:.1f}"


def _series(series: Series, x: _Scale, y: _Scale) -> str:
    if series.marks:
        labels = list(series.labels) or [""] * len(series.points)
        return "".join(
            f'<circle class="mark s{series.style}" cx="{x.at(at):.1f}" cy="{y.at(value):.1f}" r="3.5">'
            f"<title>{escape(label)}</title></circle>"
            for (at, value), label in zip(series.points, labels, strict=True)
        )
    path = " ".join(f"{x.at(at):.1f},{y.at(value):.1f}" for at, value in series.points)
    return f'<polyline class="line s{series.style}" points="{path}"/>'


def _bars(chart: Chart, x: _Scale, y: _Scale) -> list[str]:
    stops = sorted({at for series in chart.series for at, _ in series.points})
    gaps = [after - before for before, after in pairwise(stops)]
    width = max(1.0, (x.end - x.begin) * min(gaps, default=1.0) / (x.high - x.low) * 0.8)
    reached: dict[float, float] = {}
    parts = []
    for series in chart.series:
        for at, value in series.points:
            bottom = reached.get(at, 0.0)
            reached[at] = bottom + value
            height = y.at(bottom) - y.at(bottom + value)
            if height > 0:
                parts.append(
                    f'<rect class="bar s{series.style}" x="{x.at(at):.1f}" y="{y.at(bottom + value):.1f}" '
                    f'width="{width:.1f}" height="{height:.1f}">'
                    f"<title>{escape(series.label)}: {value:g}</title></rect>"
                )
    return parts


def _legend(chart: Chart) -> str:
    if len(chart.series) < 2:
        return ""
    shape = "dot" if chart.bars else "swatch"
    entries = "".join(f"<li>{_key_box(_key(it, shape))}{escape(it.label)}</li>" for it in chart.series)
    return f'<ul class="legend">{entries}</ul>'


def _key(series: Series, shape: str) -> str:
    if series.marks or shape == "dot":
        return _dot(series.style)
    return f'<polyline class="line s{series.style}" points="0,5 22,5"/>'


_STACK_STYLES = (1, 2, 3, 5, 6)
"""Without the red one, which means failures elsewhere on the page."""


def stack(parts: Sequence[tuple[str, float]], unit: str) -> str:
    """One bar of up to five parts that add up, each with its number below it: where a mean time goes."""
    total = sum(max(0.0, value) for _, value in parts)
    if total <= 0:
        return '<p class="none">Nothing was measured.</p>'
    segments, legend, at = [], [], 0.0
    for style, (name, value) in zip(_STACK_STYLES, parts, strict=False):
        width = max(0.0, value) / total * 100
        said = f"{escape(name)}: {tenths(value)} {escape(unit)}"
        segments.append(
            f'<rect class="bar s{style}" x="{at:.2f}" y="0" width="{width:.2f}" height="10">'
            f"<title>{said}</title></rect>"
        )
        legend.append(f"<li>{_key_box(_dot(style))}{said} ({max(0.0, value) / total:.0%})</li>")
        at += width
    return (
        f'<svg class="stack" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" '
        f'aria-label="parts of the mean">{"".join(segments)}</svg><ul class="legend">{"".join(legend)}</ul>'
    )


def _key_box(drawn: str) -> str:
    return f'<svg class="key" viewBox="0 0 22 10" aria-hidden="true">{drawn}</svg>'


def _dot(style: int) -> str:
    return f'<circle class="mark s{style}" cx="11" cy="5" r="4"/>'
