"""The page of the reference that says what speaks against a run: generated from the thresholds."""

from __future__ import annotations

import math

from tri_serve.load.thresholds import THRESHOLDS, Cause, Threshold

_CAUSES: dict[Cause, tuple[str, str]] = {
    "client": ("The client", "Exit code 4 where a bound of INVALID is passed: the client was measured."),
    "load": ("The load", "What was asked, or for how long, does not carry the figures."),
    "server": ("The server", "Exit code 5 where a bound of INVALID is passed: the server was not sound."),
}


def verdict_page(first_line: str) -> str:
    """Markdown, with ``first_line`` on top."""
    lines = [
        first_line,
        "# What a load test's verdict is made of",
        "",
        "`tri-serve load run` holds each of these figures against two bounds: above the first the run is SUSPECT,",
        "above the second INVALID. Without either it is VALID. What was not measured is listed, and not judged.",
        "How to read it: [load tests](../load-tests.md).",
    ]
    for cause, (title, about) in _CAUSES.items():
        lines += ["", f"## {title}", "", about, ""]
        lines += [
            "| name | figure | SUSPECT above | INVALID above | why there | what to do |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_row(threshold) for threshold in THRESHOLDS if threshold.cause == cause]
    return "\n".join(lines) + "\n"


def _row(threshold: Threshold) -> str:
    only = [
        words
        for words, told in (
            ("open loop", threshold.open_loop_only),
            ("closed loop", threshold.closed_loop_only),
            ("where the load is even", threshold.steady_load_only),
            ("not of a run that was stopped", threshold.whole_runs_only),
            (f"bounds grow {threshold.grows_with}", threshold.grows is not None),
        )
        if told
    ]
    what = threshold.what + (f" ({', '.join(only)})" if only else "")
    bounds = (_bound(value, threshold) for value in (threshold.suspect, threshold.invalid))
    cells = (f"`{threshold.name}`", what, *bounds, threshold.why, threshold.advice)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _bound(value: float, threshold: Threshold) -> str:
    if math.isinf(value):
        return "never"
    if threshold.least is not None:
        return f"fewer than {threshold.least / value:g}"
    unit = threshold.unit
    return f"{value * 100:g}%" if unit == "%" else f"{value:g} {unit}".strip().removesuffix(" yes")
