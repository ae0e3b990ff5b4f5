"""A table for people: numbers to the right, as narrow as the terminal asks for, states in colour."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import click

from tri_serve.cli.output import display_width, pad

_COLOURS: Mapping[str, str] = {
    "ready": "green",
    "running": "green",
    "up": "green",
    "starting": "cyan",
    "loading": "cyan",
    "warming": "cyan",
    "draining": "yellow",
    "waiting": "yellow",
    "failed": "red",
    "down": "red",
}


@dataclass(frozen=True)
class Column:
    """Its heading, and whether it holds numbers."""

    heading: str
    number: bool = False


def columns(
    heads: Sequence[Column],
    rows: Sequence[Sequence[str] | str],
    *,
    width: int,
    colour: int | None = None,
    fold: bool = False,
) -> list[str]:
    """The lines of a table. A row that is one text is a heading of its own over what follows.

    The gaps are narrowed where it would not fit into ``width`` otherwise; with ``fold`` headings and then cells
    take several lines where that is not enough. ``colour``: index of the column whose words have colours.
    """
    headings = [head.heading for head in heads]
    cells = [list(row) for row in rows if not isinstance(row, str)]
    widths = [max(display_width(row[index]) for row in (headings, *cells)) for index in range(len(heads))]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= width else " "
    if fold:
        widths = _narrowed(headings, cells, widths, width - len(gap) * (len(widths) - 1))

    def lines(row: Sequence[str], *, heading: bool = False) -> list[str]:
        folded = [_folded(text, size) for text, size in zip(row, widths, strict=True)]
        return [line(parts, heading=heading) for parts in zip_longest(*folded, fillvalue="")]

    def line(row: Sequence[str], *, heading: bool) -> str:
        parts = []
        for index, (text, size) in enumerate(zip(row, widths, strict=True)):
            filled = " " * (size - display_width(text)) + text if heads[index].number else pad(text, size)
            if index == colour and not heading and text in _COLOURS:
                filled = click.style(text, fg=_COLOURS[text]) + filled[len(text) :]
            parts.append(filled)
        return gap.join(parts).rstrip()

    table = lines(headings, heading=True)
    for row in rows:
        table += [click.style(row, bold=True)] if isinstance(row, str) else lines(row)
    return table


def _narrowed(
    headings: Sequence[str], cells: Sequence[Sequence[str]], widths: Sequence[int], room: int
) -> list[int]:
    """``widths`` made smaller, the widest first, until they fit into ``room`` or no text can be cut further.

    Headings are cut before cells: that takes lines once and not in every row.
    """
    found = list(widths)
    for whole in (True, False):
        least = []
        for index, heading in enumerate(headings):
            texts = [text for row in cells for text in ([row[index]] if whole else _pieces(row[index]))]
            least.append(max((display_width(text) for text in (*_pieces(heading), *texts)), default=0))
        while sum(found) > room and (wide := [i for i, size in enumerate(found) if size > least[i]]):
            found[max(wide, key=lambda i: found[i])] -= 1
    return found


def _pieces(text: str) -> list[str]:
    """Where it may be cut: between words, and behind the underscores of a key."""
    return re.findall(r"[^\s_]*_+|[^\s_]+", text)


def _folded(text: str, size: int) -> list[str]:
    """In lines of at most ``size`` columns, if its pieces are no longer."""
    if display_width(text) <= size:
        return [text]
    lines = [""]
    for piece in re.findall(r"\s*(?:[^\s_]*_+|[^\s_]+)", text):
        if lines[-1] and display_width(lines[-1] + piece) > size:
            lines.append("")
        lines[-1] += piece if lines[-1] else piece.lstrip()
    return lines


def compact(number: float | None) -> str:
    """At most five characters: ``-``, ``7``, ``0.4``, ``419k``, ``1.2M``."""
    if number is None:
        return "-"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size * 0.9995:
            scaled = number / size
            return f"{scaled:.1f}{letter}" if scaled < 9.95 else f"{scaled:.0f}{letter}"
    if number == int(number) or number >= 9.95:
        return f"{number:.0f}"
    return f"{number:.1f}"


def rate(number: float | None) -> str:
    """Tokens a second, in five characters: ``-``, ``0.4``, ``84``, ``12345``."""
    return compact(number) if number is None or number < 9.95 or number >= 99_999.5 else f"{number:.0f}"


def largest_units(seconds: float) -> tuple[tuple[int, str], ...]:
    """A time in its two largest units, ``d``, ``h``, ``min`` or ``s``; under a minute in seconds alone."""
    whole = max(0, int(seconds))
    for unit, size, below, below_size in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            return (whole // size, unit), (whole % size // below_size, below)
    return ((whole, "s"),)


def age(seconds: float) -> str:
    """``12s``, ``3m05s``, ``2h07m``, ``4d01h``."""
    (count, unit), *below = largest_units(seconds)
    return f"{count}{unit[0]}" + "".join(f"{count:02}{unit[0]}" for count, unit in below)
