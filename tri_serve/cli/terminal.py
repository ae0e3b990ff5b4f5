"""What the terminal takes, as the environment says."""

from __future__ import annotations

import os
from collections.abc import Mapping


def colour(environ: Mapping[str, str] = os.environ) -> bool | None:
    """False: NO_COLOR (no-color.org) or a terminal that can do nothing forbids it. None: where it goes decides."""
    return False if environ.get("NO_COLOR") or is_dumb(environ) else None


def is_dumb(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the terminal knows neither colours nor a cursor that moves (TERM=dumb: Emacs, CI)."""
    return environ.get("TERM") == "dumb"
