"""A worker of a private Ray is a fork of a process that has imported what it needs, or begins by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tri_serve.fleet.ray import start_worker

RAYLET = "4194303"
PROGRAM = """
import json, os, signal, sys
told = {
    "argv": sys.argv, "pid": os.getpid(), "parent": os.getppid(), "group": os.getpgrp(), "mark": os.environ["MARK"],
    "imported": "tri_serve.fleet.ray.agents" in sys.modules, "threads": len(os.listdir("/proc/self/task")),
    "blas": os.environ.get("OPENBLAS_NUM_THREADS"), "child": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
    "stdin": os.readlink("/proc/self/fd/0"),
}
print(json.dumps(told), flush=True)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """In the place of Ray's own program for a worker."""
    path = tmp_path / "default_worker.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has started what workers are forked from, and waits."""
    starts = (
        "import sys; from pathlib import Path; from tri_serve.fleet.ray import worker_source;"
        f"worker_source.spawn(Path(sys.argv[1]), {RAYLET}); sys.stdin.read()"
    )
    command = [sys.executable, "-P", "-c", starts, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30.0
        while not (tmp_path / start_worker.SOCKET).exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
        process.kill()


def started(program: Path, job: str = "01000000") -> tuple[int, dict[str, Any]]:
    """Start a worker as a raylet does; the pid that it knows, and what the worker says."""
    with subprocess.Popen(
        [
            *(sys.executable, "-P", start_worker.__file__, "--serialized-runtime-env-context={}"),
            *("--language=PYTHON", str(program), f"--temp-dir={program.parent}", "--worker-id=7"),
        ],
        env=os.environ | {"MARK": "one", "RAY_RAYLET_PID": RAYLET, "RAY_JOB_ID": job},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        said, _ = process.communicate(timeout=30)
    return process.pid, json.loads(said)


def test_a_worker_is_a_fork_with_the_arguments_variables_and_streams_of_who_asked(
    program: Path, source: subprocess.Popen[str]
) -> None:
    asked, told = started(program)
    assert told["argv"] == [str(program), f"--temp-dir={program.parent}", "--worker-id=7"]
    assert (told["mark"], told["stdin"], told["blas"]) == ("one", "/dev/null", None)
    assert told["pid"] != asked
    assert told["group"] == told["pid"]  # Ray ends the group of a worker that has died
    assert (told["imported"], told["threads"], told["child"]) == (True, 1, True)
    _, other = started(program)
    assert other["parent"] == told["parent"] != source.pid


def test_a_worker_of_another_job_begins_by_itself(program: Path, source: subprocess.Popen[str]) -> None:
    assert source.poll() is None
    asked, told = started(program, job="02000000")
    assert told["pid"] == asked
    assert told["argv"] == [str(program), f"--temp-dir={program.parent}", "--worker-id=7"]
    assert not told["imported"]


def test_a_worker_begins_by_itself_where_there_is_nothing_to_fork(program: Path) -> None:
    asked, told = started(program)
    assert (told["pid"], told["mark"], told["imported"]) == (asked, "one", False)


def test_what_workers_are_forked_from_ends_with_who_started_it(
    program: Path, source: subprocess.Popen[str]
) -> None:
    _, told = started(program)
    os.kill(source.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10.0
    while Path(f"/proc/{told['parent']}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    asked, alone = started(program)
    assert alone["pid"] == asked
