"""On a terminal: colours unless they are forbidden, and lines that are no wider than it."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys

import pytest

from tri_serve.cli.progress import PlainSteps, steps

SECONDS = 30
PLAN = ("plan", "tri-21b-awq", "--gpu", "l4")
AT_ONCE = re.compile(r"\x1b\[[0-9;]*m")


def on_a_terminal(arguments: tuple[str, ...], columns: int = 80, **environment: str) -> str:
    """What a terminal of so many columns is sent."""
    master, slave = pty.openpty()
    environ = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tri_serve.cli.main", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environ | {"TERM": "xterm-256color", "COLUMNS": str(columns)} | environment,
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
    assert "\x1b" not in on_a_terminal(PLAN, **forbidding)
    error = on_a_terminal(("plan", "show", "--gpu", "l5"), **forbidding)
    assert "error:" in error
    assert "\x1b" not in error


def test_a_dumb_terminal_gets_a_line_for_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(steps(), PlainSteps)
