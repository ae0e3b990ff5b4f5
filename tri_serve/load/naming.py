"""What a run is called: also the name of its folder."""

from __future__ import annotations

import secrets
from datetime import datetime


def run_name(scenario: str) -> str:
    """Of a scenario's name or path: the time, what was run, and what tells two of the same second apart."""
    stem = scenario.rsplit("/", 1)[-1].removesuffix(".yaml").removesuffix(".yml")
    kept = "".join(mark if mark.isascii() and (mark.isalnum() or mark == "-") else "-" for mark in stem)
    return f"{datetime.now():%Y%m%d-%H%M%S}-{kept[:40].strip('-') or 'run'}-{secrets.token_hex(2)}"
