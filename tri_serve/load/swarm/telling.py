"""Where a run's progress goes: to a descriptor that the caller reads, or as lines of Locust's log."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable

from tri_serve.load.progress import Ended, Failed, Progress
from tri_serve.load.swarm.outcome import Finished

PROGRESS_FD = "TRI_SERVE_LOAD_PROGRESS_FD"
_LOG_SECONDS = 5.0

logger = logging.getLogger("tri_serve.load")


class Teller:
    """``descriptor``: where JSON lines go; None: people read Locust's log."""

    def __init__(self, descriptor: int | None) -> None:
        self.on_gone: Callable[[], None] = lambda: None
        """Called once if the reader is gone."""
        self._descriptor = descriptor
        self._logged = 0.0
        self._stage = ""

    def progress(self, line: Progress) -> None:
        """Where a run is."""
        if self._descriptor is not None:
            self._write(line)
            return
        now = time.monotonic()
        if line.stage != self._stage or now - self._logged >= _LOG_SECONDS:
            self._stage, self._logged = line.stage, now
            logger.info(as_words(line))

    def ended(self, finished: Finished) -> None:
        """A run that left a result."""
        result = finished.result
        if self._descriptor is not None:
            inline = None if finished.path is not None else result.model_dump(mode="json")
            self._write(
                Ended(
                    result=str(finished.path or ""),
                    inline=inline,
                    complete=result.complete,
                    exit_code=finished.exit_code,
                    remarks=finished.remarks,
                )
            )
            return
        print(finished.text, flush=True)
        for remark in finished.remarks:
            logger.warning(remark)
        if finished.path is not None:
            logger.info("result: %s", finished.path)

    def failed(self, line: Failed) -> None:
        """A run that left none."""
        if self._descriptor is not None:
            self._write(line)
            return
        print(f"error: {line.error}", file=sys.stderr)
        if line.hint:
            print(f"hint: {line.hint}", file=sys.stderr, flush=True)

    def _write(self, line: Progress | Ended | Failed) -> None:
        assert self._descriptor is not None
        data = line.model_dump_json().encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except BrokenPipeError:
            # Whoever started the run was killed; nobody would end it otherwise.
            self._descriptor = None
            self.on_gone()


def as_words(line: Progress) -> str:
    """A line of the log."""
    words = [line.stage, line.note, f"{line.elapsed:.0f} of {line.total:.0f} s" if line.elapsed else ""]
    if line.scheduled:
        words.append(
            f"{line.completed} answered, {line.failed} failed, {line.unsent} unsent, {line.open_requests} open"
        )
    for name, value, unit in (
        ("TTFT p50", line.ttft_p50_ms, "ms"),
        ("p99", line.ttft_p99_ms, "ms"),
        ("TPOT p50", line.tpot_p50_ms, "ms"),
        ("output", line.output_tokens_per_second, "tok/s"),
    ):
        if value is not None and line.scheduled:
            words.append(f"{name} {value:,.1f} {unit}")
    if line.goodput_share is not None:
        words.append(f"goodput {line.goodput_share:.1%}")
    return ", ".join(word for word in words if word)
