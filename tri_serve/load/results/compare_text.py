"""A comparison in 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from tri_serve.load.results.comparison import Comparison, Difference

_WIDTH = 80


def comparison_text(comparison: Comparison) -> str:
    """Figures side by side, with the interval of each difference, and what follows."""
    return "\n".join(_lines(comparison)) + "\n"


def _lines(comparison: Comparison) -> Iterator[str]:
    yield from _wrapped(f"{', '.join(comparison.base)}", "base   ")
    yield from _wrapped(f"{', '.join(comparison.other)}", "other  ")
    yield ""
    yield f"{'':<15}{'base':>11}{'other':>11}{'change':>9}  {'95% interval':<18}"
    for difference in comparison.differences:
        yield _row(difference, regression=difference.name in comparison.regressions)
    yield ""
    if comparison.regressions:
        yield from _wrapped(
            f"{', '.join(comparison.regressions)}: worse by more than chance and more than "
            f"{comparison.allowed:.0%}",
            "REGRESSION ",
        )
    elif not comparison.believed:
        yield "nothing follows from this comparison: see the notes on its runs"
    elif comparison.differences:
        yield f"no regression: nothing judged is worse by more than chance and {comparison.allowed:.0%}"
    else:
        yield "nothing could be compared: a side has no answers"
    for remark in comparison.remarks:
        yield from _wrapped(remark, "note: ")


def _row(it: Difference, *, regression: bool) -> str:
    said = "same" if it.direction == "no difference" else str(it.direction)
    if regression:
        said = said.upper()
    if not it.judged:
        said += " (few)"
    interval = "" if it.low is None or it.high is None else f"{it.low:+.1%} to {it.high:+.1%}"
    change = "" if it.change is None else f"{it.change:+.1%}"
    return f"{it.name:<15}{_number(it.base):>11}{_number(it.other):>11}{change:>9}  {interval:<20}{said}"


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    digits = 3 if value < 10 else 1 if value < 10_000 else 0
    return f"{value:,.{digits}f}"


def _wrapped(text: str, first: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=" " * len(first))
