"""Fitted shares as they are kept: JSON tables that say what they rest on.

Three places, the first that has an entry counts: files named on the command line, the user's own (below
``calibrations`` in the data directory), and those that ship with tri-serve (plan/calibrations). Of those in one
folder the youngest counts first.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tri_serve.checkpoint.quantization import Method
from tri_serve.errors import UsageError
from tri_serve.places import data_dir
from tri_serve.plan.result import Range

FOLDER = "calibrations"


MOST_BATCH = 1_000_000
"""Sequences at once; no engine has a tenth of them."""
_MOST_POINTS = 1_000_000_000
MOST_SECONDS = 60.0
"""Of one step that the device waits; an engine that waits for a minute does not work."""


def _is_share(share: Range) -> Range:
    if not 0 < share.low <= share.likely <= share.high <= 1:
        raise ValueError("a share is 0 < low <= likely <= high <= 1")
    return share


def _is_wait(seconds: Range) -> Range:
    if not 0 <= seconds.low <= seconds.likely <= seconds.high <= MOST_SECONDS:
        raise ValueError(f"seconds of a step are 0 <= low <= likely <= high <= {MOST_SECONDS:g}")
    return seconds


def _is_time(text: str) -> str:
    _time(text)
    return text


def _time(text: str) -> datetime:
    """UTC where no zone is said."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _rising(shares: tuple[MemoryShare, ...]) -> tuple[MemoryShare, ...]:
    if any(after.batch <= before.batch for before, after in pairwise(shares)):
        raise ValueError("each batch is larger than the one before it")
    return shares


Share = Annotated[Range, AfterValidator(_is_share)]
Seconds = Annotated[Range, AfterValidator(_is_wait)]
Count = Annotated[int, Field(ge=1, le=_MOST_POINTS)]


class _Kept(BaseModel):
    # Built when first used: most machines have no table, and a plan should not wait for the models of one.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Source(_Kept):
    """A file of measurements."""

    file: str
    """Its name, without its folder."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class MemoryShare(_Kept):
    """The attained share of bandwidth with so many sequences at once."""

    batch: Annotated[int, Field(ge=1, le=MOST_BATCH)]
    share: Share
    points: Count
    """Measurements that it rests on."""


class Calibration(_Kept):
    """The shares of one kind of GPU with one engine and one way of storing weights."""

    gpu: str
    engine: Literal["vllm", "sglang"]
    minor: Annotated[str, Field(pattern=r"^\d+\.\d+$")]
    """The engine's version without its patch: ``0.32``."""
    quantization: Method
    versions: tuple[str, ...]
    """The exact versions that were measured."""
    tensor_parallel: tuple[int, ...]
    """The sizes that were measured."""
    memory: Annotated[tuple[MemoryShare, ...], AfterValidator(_rising)] = ()
    """By rising batch; empty: not measured."""
    compute: Share | None = None
    """Share of the arithmetic while generating; none: not measured."""
    prefill: Share | None = None
    """Share of the arithmetic while reading prompts; none: not measured."""
    overhead: Seconds
    """Seconds of each step in which the device waits for the engine."""
    points: Count
    """Measurements that it rests on."""
    ignored: Annotated[int, Field(ge=0, le=_MOST_POINTS)] = 0
    """Measurements that say nothing of a share: prompts so short that they wait for weights."""
    provenance: tuple[str, ...]
    """What was run, as the measurements say it."""


class CalibrationTable(_Kept):
    """One file of calibrations."""

    format: Literal[1] = 1
    made: Annotated[str, AfterValidator(_is_time)]
    """When it was fitted, ISO 8601; of a folder's tables the youngest counts first."""
    made_with: str
    """``tri-serve 0.1.0``."""
    model: str
    """Which model the bytes and operations of a step are of."""
    machine: str
    """Where it was fitted; where it was measured is in ``provenance``."""
    sources: tuple[Source, ...] = ()
    calibrations: tuple[Calibration, ...]
    file: Annotated[str, Field(exclude=True)] = ""
    """Which file it was read from; not kept in it."""

    def to_json(self) -> str:
        """As it is kept in a file."""
        return self.model_dump_json(indent=2) + "\n"


def source_of(path: Path) -> Source:
    """Which file that was, whatever becomes of it. Raises UsageError if it cannot be read."""
    try:
        return Source(file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def describe_machine() -> str:
    """What kind of machine this is, without its name."""
    return f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def write_table(table: CalibrationTable, path: Path) -> None:
    """Keep a table, whole or not at all. Raises UsageError if that is not possible."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(table.to_json(), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error


def read_table(path: Path) -> CalibrationTable:
    """The table in the file ``path``. Raises UsageError, in one line, if there is none."""
    return _parse(path, str(path))


def user_tables_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where a user's own tables are."""
    return data_dir(environ) / FOLDER


def load_tables(
    files_first: Iterable[Path] = (),
    environ: Mapping[str, str] = os.environ,
    *,
    damaged: Callable[[str], object] | None = None,
) -> tuple[CalibrationTable, ...]:
    """Every table, those that count first at the front.

    A file of the user's own folder that holds none is left out, and ``damaged`` is told in one line.
    Raises UsageError for one of ``files_first`` that holds none, and without ``damaged`` for any.
    """
    return (
        *(read_table(path) for path in files_first),
        *_folder(user_tables_dir(environ), damaged),
        *_folder(files("tri_serve.plan") / FOLDER),
    )


def _folder(
    folder: Traversable, damaged: Callable[[str], object] | None = None
) -> tuple[CalibrationTable, ...]:
    """The tables of one folder, the youngest first; by name where they are of one second."""
    if not folder.is_dir():
        return ()
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name, reverse=True)
    tables = []
    for entry in entries:
        if not entry.name.endswith(".json"):
            continue
        try:
            tables.append(_parse(entry, str(entry)))
        except UsageError as error:
            if damaged is None:
                raise
            damaged(f"{error.message}; planned without it")
    return tuple(sorted(tables, key=lambda table: _time(table.made), reverse=True))


def _parse(file: Traversable, name: str) -> CalibrationTable:
    try:
        table = CalibrationTable.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{name}: is no calibration table: {f'{where}: ' if where else ''}{first['msg']}",
            hint="make one with: tri-serve plan calibrate RESULT.json",
        ) from error
    return table.model_copy(update={"file": name})
