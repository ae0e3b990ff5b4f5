"""Fetching a checkpoint with its progress shown: for ``checkpoint pull``, and for ``up`` where one is missing."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from tri_serve.cli.terminal import is_dumb

if TYPE_CHECKING:
    from tri_serve.checkpoint.pull import Pulled, PullProgress
    from tri_serve.cli.progress import Steps
    from tri_serve.spec.engine import ModelSpec

STEP = "checkpoint"
_LINE_SECONDS = 5.0
"""Between two lines where each stays, as in a log."""


def pull_with_progress(model: ModelSpec, view: Steps) -> Pulled:
    """Fetch what is missing of ``model``; a step of ``view`` says how far it is. Raises as ``pull`` does."""
    from tri_serve.checkpoint.pull import pull

    live = sys.stderr.isatty() and not is_dumb()
    shown = 0.0
    last: PullProgress | None = None

    def report(progress: PullProgress) -> None:
        nonlocal shown, last
        last = progress
        now = time.monotonic()
        if live or now - shown >= _LINE_SECONDS:
            shown = now
            view.show(STEP, progress_line(model.source, progress))

    view.show(STEP, f"{model.source}: asking the hub what there is")
    try:
        pulled = pull(model, report=report)
    except KeyboardInterrupt:
        if last is not None:
            kept = f"{amount(last.done)} of {amount(last.total)} are kept; run it again to go on"
            view.show(STEP, f"{model.source}: {kept}", "left")
        raise
    view.show(
        STEP, f"{model.source}: {amount(pulled.fetched)} fetched, {amount(pulled.total)} in all", "done"
    )
    return pulled


def progress_line(name: str, progress: PullProgress) -> str:
    """``owner/name: 2.3 of 12.7 GB (18%), 112.0 MB/s, 1 min 32 s left``."""
    share = progress.done / progress.total if progress.total else 1.0
    words = [f"{name}: {amount(progress.done)} of {amount(progress.total)} ({share:.0%})"]
    if progress.rate > 0:
        words.append(f"{amount(int(progress.rate))}/s")
    if progress.seconds_left:
        words.append(f"{duration(progress.seconds_left)} left")
    return ", ".join(words)


def amount(size: int) -> str:
    """Bytes as disks and networks count them."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size} B"


def duration(seconds: float) -> str:
    """Rounded up: nobody minds when it is there earlier."""
    whole = int(seconds) + 1
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
