"""Where tri-serve keeps things on a machine: the XDG base directories, and nothing outside them.

Reads the environment when called; creates nothing. https://specifications.freedesktop.org/basedir-spec
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def _base(environ: Mapping[str, str], variable: str, fallback: str) -> Path:
    value = environ.get(variable, "")
    # The specification says that a relative path is invalid and must be ignored.
    root = Path(value) if value and Path(value).is_absolute() else Path.home() / fallback
    return root / "tri-serve"


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Things that can be made again: derived checkpoints, compiled graphs."""
    return _base(environ, "XDG_CACHE_HOME", ".cache")


def data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Things that are expensive to make again: engine environments."""
    return _base(environ, "XDG_DATA_HOME", ".local/share")


def state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """What runs now: one folder a release, with its state, logs and sockets. And which notices were shown."""
    return _base(environ, "XDG_STATE_HOME", ".local/state")
