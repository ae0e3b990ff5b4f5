"""What a scenario hands back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .streams import Outcome
from .traffic import Record, Tally


@dataclass
class Result:
    """A scenario's table, figures, and the promises that it found broken."""

    table: str
    figures: dict[str, Any]
    broken: list[str] = field(default_factory=list)


def request_rows(records: list[Record]) -> list[list[object]]:
    """Rows of a table: how requests ended, streams and others."""
    tally = Tally.of(records)
    rows: list[list[object]] = [
        ["requests", sum(tally.whole.values()), sum(tally.streams.values())],
        ["answered to the letter", tally.whole[Outcome.OK], tally.streams[Outcome.OK]],
        ["ended by an error event", "–", tally.streams[Outcome.ERROR_EVENT]],
        ["cut", "–", tally.streams[Outcome.CUT]],
        ["wrong text", tally.whole[Outcome.WRONG], tally.streams[Outcome.WRONG]],
    ]
    for outcome, words in (
        (Outcome.STATUS, "error status"),
        (Outcome.REFUSED, "connection refused"),
        (Outcome.LOST, "connection lost before the answer"),
        (Outcome.SILENT, "no word for minutes"),
    ):
        rows.append([words, tally.whole[outcome], tally.streams[outcome]])
    return rows


def examples(records: Sequence[Record], most: int = 5) -> list[str]:
    """A line for each of the first few records."""
    lines = [
        f"{r.outcome}: {r.ask}: {r.detail} (request {r.request_id or 'without id'})" for r in records[:most]
    ]
    return lines + ([f"… and {len(records) - most} more"] if len(records) > most else [])
