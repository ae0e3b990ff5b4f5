"""Notes that come with a preset, such as its model's licence: each is shown to a user once, and then remembered.

What was shown at a terminal is never shown again. What went elsewhere, to a log or to nobody, does not go there
again and is still shown at a terminal, where somebody reads it. Where nothing can be remembered, it is shown
each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from tri_serve.cli.output import print_notes
from tri_serve.places import state_dir

_TERMINAL, _ELSEWHERE = "terminal", "elsewhere"


def print_notices(
    notes: Iterable[str], *, always: bool = False, environ: Mapping[str, str] = os.environ
) -> None:
    """Write those of ``notes`` to stderr that this user has not been shown, and remember them.

    ``always``: also those that were. Never fails for a place that cannot be read or written.
    """
    where = _TERMINAL if sys.stderr.isatty() else _ELSEWHERE
    seen_at = {where, _TERMINAL}
    for note in dict.fromkeys(notes):
        stamps = _stamps(note, environ)
        if not always and any(_exists(stamps[place]) for place in seen_at if place in stamps):
            continue
        print_notes([note])
        if where in stamps:
            _remember(stamps[where], note)


def _stamps(note: str, environ: Mapping[str, str]) -> dict[str, Path]:
    """The file that says where ``note`` was shown, for each place; none for somebody without a home."""
    try:
        folder = state_dir(environ) / "notices"
    except RuntimeError:
        return {}
    name = hashlib.sha256(" ".join(note.split()).encode()).hexdigest()[:16]
    return {place: folder / place / f"{name}.txt" for place in (_TERMINAL, _ELSEWHERE)}


def _exists(stamp: Path) -> bool:
    try:
        return stamp.exists()
    except OSError:
        return False


def _remember(stamp: Path, note: str) -> None:
    with contextlib.suppress(OSError):
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(f"{note}\n", encoding="utf-8")
