"""Programs that misbehave, and a look at what is left of them."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tri_serve.process.strays import find_strays


@pytest.fixture
def token() -> Iterator[str]:
    """A marker of this test's own processes; whatever is left of them at its end is killed."""
    value = secrets.token_hex(8)
    yield value
    for stray in find_strays(value):
        with contextlib.suppress(ProcessLookupError):
            os.kill(stray.pid, signal.SIGKILL)


def until(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    """Poll until ``condition`` holds; False if it does not in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


@pytest.fixture
def eventually() -> Callable[..., bool]:
    """``until``, for tests."""
    return until


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """A program with three descendants: a plain one, one in its own session, one that ignores TERM."""
    program = tmp_path / "family.py"
    program.write_text(
        """
import os, signal, subprocess, sys, time
deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
subprocess.Popen(["sleep", "600"])
subprocess.Popen(["sleep", "600"], start_new_session=True)
subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True)
if os.fork() == 0:                      # a daemon: its parent ends at once
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "600"])
    os._exit(0)
print("ready", flush=True)
time.sleep(600)
"""
    )
    return program
