"""On a terminal: colours unless they are forbidden, and lines that are no wider than it."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence

import pytest

from tri_serve.cli.columns import Column, columns
from tri_serve.cli.output import display_width
from tri_serve.cli.progress import PlainSteps, steps

SECONDS = 30
PLAN = ("plan", "tri-21b-awq", "--gpu", "l4")
AT_ONCE = re.compile(r"\x1b\[[0-9;]*m")


def on_a_terminal(
    arguments: Sequence[str], width: int = 80, environment: Mapping[str, str] | None = None
) -> str:
    """What a terminal of so many columns is sent."""
    master, slave = pty.openpty()
    environ = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tri_serve.cli.main", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environ | {"TERM": "xterm-256color", "COLUMNS": str(width)} | dict(environment or {}),
    )
    os.close(slave)
    sent = b""
    while select.select([master], [], [], SECONDS)[0]:
        try:
            more = os.read(master, 65536)
        except OSError:  # the last program that had the terminal has closed it
            break
        if not more:
            break
        sent += more
    os.close(master)
    process.wait(SECONDS)
    return sent.decode().replace("\r\n", "\n")


def test_labels_are_dim_and_verdicts_have_colours_on_a_terminal() -> None:
    text = on_a_terminal(PLAN)
    assert "\x1b[2mmodel" in text
    assert "\x1b[22m" not in text
    assert "\x1b[32m\x1b[1mfits" in text


@pytest.mark.parametrize("forbidding", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_there_are_no_colours_where_they_are_forbidden(forbidding: dict[str, str]) -> None:
    assert "\x1b" not in on_a_terminal(PLAN, environment=forbidding)
    error = on_a_terminal(("plan", "show", "--gpu", "l5"), environment=forbidding)
    assert "error:" in error
    assert "\x1b" not in error


def test_a_dumb_terminal_gets_a_line_for_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(steps(), PlainSteps)


LOAD = ("--request-rate", "2", "--price", "0.8")
VARY = ("gpu_memory_utilization=0.8,0.9", "max_num_batched_tokens=512,1024", "kv_cache_dtype=auto,fp8")


@pytest.mark.parametrize(
    ("arguments", "width"),
    [
        (("plan", "compare", "all", "tri-21b-awq", *LOAD), 80),
        (
            (
                *("plan", "sweep", "tri-21b-awq", "--gpu", "l4", *LOAD),
                *(word for key in VARY for word in ("--vary", key)),
            ),
            80,
        ),
        (("plan", "show", "tri-tiny-awq", "--gpu", "l4"), 80),
        (("plan", "show", "tri-tiny-awq", "--gpu", "l4"), 60),
    ],
)
def test_a_table_is_no_wider_than_the_terminal(arguments: tuple[str, ...], width: int) -> None:
    text = AT_ONCE.sub("", on_a_terminal(arguments, width))
    lines = text.splitlines()
    assert len(lines) > 10
    wide = [line.strip() for line in lines if display_width(line) > width]
    assert [line for line in wide if " " in line] == []  # one word, such as a path, is not cut


def test_a_heading_is_cut_before_a_cell_and_a_cell_only_between_words() -> None:
    heads = [Column("gpu_memory_utilization"), Column("all together", number=True)]
    rows = [["0.8", "15 (11-19)"]]
    assert columns(heads, rows, width=40, fold=True) == [
        "gpu_memory_utilization  all together",
        "0.8                       15 (11-19)",
    ]
    assert columns(heads, rows, width=23, fold=True) == [
        "gpu_memory_         all",
        "utilization    together",
        "0.8          15 (11-19)",
    ]
    assert columns(heads, rows, width=20, fold=True)[-2:] == ["0.8               15", "             (11-19)"]
