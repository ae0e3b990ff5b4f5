"""What commands print: data as JSON or YAML, tables for people, notes beside them.

Results go to stdout and everything else to stderr, so that a pipe sees results alone.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence

import click

_GAP = 2
_NARROWEST_LAST_COLUMN = 20
_NARROWEST = 40


def print_data(data: object, output: str) -> None:
    """Print plain data (dicts, lists, text, numbers) as ``json`` or ``yaml``."""
    if output == "json":
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
        return
    click.echo(yaml_text(data), nl=False)


def yaml_text(data: object) -> str:
    """Plain data as block YAML, keys in their order, Korean as Korean."""
    import yaml

    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=10_000))


def terminal_width() -> int:
    """Columns to write prose into; never fewer than a word or two needs."""
    return max(shutil.get_terminal_size().columns, _NARROWEST)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in columns.

    On a terminal the last column is wrapped to its width; in a pipe it is not, so that a line stays a row.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in table_lines(headers, rows, width=width):
        click.echo(line)


def table_lines(headers: Sequence[str], rows: Iterable[Sequence[object]], *, width: int | None) -> list[str]:
    """The lines of a table, at most ``width`` columns wide where the last column can be wrapped to it."""
    cells = [list(headers), *([cell_text(value) for value in row] for row in rows)]
    widths = [max(display_width(row[index]) for row in cells) for index in range(len(headers))]
    last = len(headers) - 1
    indent = sum(widths[:last]) + _GAP * last
    room = None if width is None else max(width - indent, _NARROWEST_LAST_COLUMN)
    lines: list[str] = []
    for row in cells:
        start = "".join(pad(row[index], widths[index] + _GAP) for index in range(last))
        parts = (
            [row[last]] if room is None else textwrap.wrap(row[last], room, break_on_hyphens=False) or [""]
        )
        lines.append((start + parts[0]).rstrip())
        lines += [" " * indent + part for part in parts[1:]]
    return lines


def cell_text(value: object) -> str:
    """A value as a table shows it: nothing for None, JSON for anything but text."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def display_width(text: str) -> int:
    """Columns on a terminal: Korean and Japanese characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def pad(text: str, width: int) -> str:
    """The text, filled with spaces to ``width`` columns."""
    return text + " " * max(width - display_width(text), 0)


def print_notes(notes: Iterable[str], *, label: str = "note") -> None:
    """Write notes to stderr, wrapped to the terminal."""
    width, indent = min(terminal_width(), 100), " " * (len(label) + 2)
    for note in notes:
        # Names of files and packages are there to be copied.
        lines = textwrap.fill(
            f"{label}: {note}",
            width,
            subsequent_indent=indent,
            break_on_hyphens=False,
            break_long_words=False,
        )
        click.echo(lines, err=True)
