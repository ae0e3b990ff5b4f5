"""Reading the files with a line for each request that a run leaves beside its result."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tri_serve.errors import UsageError
from tri_serve.load.records import Outcome, Phase, Record


def read_records(path: Path) -> Iterator[Record]:
    """The records of one file. A last line that was cut (the disk was full, the process killed) ends it.

    Raises UsageError for a file that cannot be read or is none of these. The first line describes the file.
    """
    try:
        with path.open("rb") as file:
            yield from _records(path, file)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error


def _records(path: Path, lines: Iterable[bytes]) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            if number == 1:
                raise UsageError(f"{path}: no file of records")
            return
        if number == 1:
            continue
        try:
            values = json.loads(line)
            record = Record(
                **{**values, "outcome": Outcome(values["outcome"]), "phase": Phase(values["phase"])}
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path}: line {number} is no record of a request") from error
        yield record
