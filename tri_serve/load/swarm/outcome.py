"""What a run left, and what was written of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tri_serve.errors import TriServeError
from tri_serve.load.results.model import RunResult
from tri_serve.load.results.text import report
from tri_serve.load.server_side.scrape import History
from tri_serve.load.swarm.leader import Gathered
from tri_serve.load.swarm.report import About, result_of, write_files

INTERRUPTED = 130
"""128 + SIGINT, as shells report a program that Ctrl-C ended."""


class NothingMeasuredError(TriServeError):
    """The run ended before its window."""

    exit_code = INTERRUPTED


@dataclass(frozen=True)
class Finished:
    """A run that has ended."""

    result: RunResult
    path: Path | None
    """Of result.json; None: it could not be written."""
    remarks: tuple[str, ...]
    text: str
    """For a terminal."""
    ended_by_person: bool = False
    """It was stopped before its end, not broken off by the loss of a process."""

    @property
    def exit_code(self) -> int:
        """Of the verdict; 130 where a person ended the run."""
        return INTERRUPTED if self.ended_by_person else self.result.verdict.exit_code


def finish(
    gathered: Gathered, about: About, history: History | None, *, vllm_json: bool, detailed: bool
) -> Finished:
    """Make the result and write its files.

    Raises NothingMeasuredError for a run that was stopped in its warm-up.
    """
    result = result_of(gathered, about, history)
    if gathered.stopped_because and result.figures.window_seconds <= 0:
        raise NothingMeasuredError(
            f"stopped in the warm-up ({gathered.stopped_because}): nothing was counted",
            hint=f"the warm-up takes {gathered.order.scenario.warm_up:g} s; --warm-up shortens it",
        )
    remarks = [share["record_error"] for share in gathered.shares if share["record_error"]]
    lost = sum(share["records_lost"] for share in gathered.shares)
    notes = [
        f"{error}: {lost} requests are not in the records; the figures have them" for error in remarks[:1]
    ]
    written = write_files(result, gathered.order.folder, vllm_json=vllm_json, detailed=detailed)
    return Finished(
        result,
        written.path,
        (*notes, *written.remarks),
        report(result),
        ended_by_person=bool(gathered.stopped_because),
    )
