"""Running the programs that build an environment: output kept in a log, nothing left behind on Ctrl-C."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Settings of the user's pip that would put packages somewhere else. The rest of its configuration (indexes,
# proxies, certificates, caches) is the user's to decide and stays.
_MISPLACING = frozenset(
    {
        "PIP_USER",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_ROOT",
        "PIP_REQUIRE_VIRTUALENV",
        "PIP_DRY_RUN",
        "PIP_NO_DEPS",
    }
)


class CommandFailedError(Exception):
    """A program ended with another status than 0. Caught within ``launch`` and explained there."""

    def __init__(self, argv: Sequence[str], returncode: int, lines: Sequence[str]) -> None:
        super().__init__(f"{shlex.join(argv)} ended with status {returncode}")
        self.returncode = returncode
        self.lines = tuple(lines)


class CommandLog:
    """Runs programs one after the other and appends what they print to ``log``.

    ``scratch`` becomes TMPDIR: pip unpacks gigabytes there, and /tmp is often small. ``lock_fd`` is inherited
    by every program, so that a lock held on it lasts until the last of them has ended.
    """

    def __init__(self, log: Path, scratch: Path, lock_fd: int) -> None:
        self.log = log
        self._scratch = scratch
        self._lock_fd = lock_fd

    def run(self, argv: Sequence[str], on_line: Callable[[str], None] = lambda line: None) -> str:
        """The program's output, standard error included. Raises CommandFailedError."""
        lines: list[str] = []
        with (
            self.log.open("a", encoding="utf-8") as log,
            subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=building_environment(os.environ, self._scratch),
                pass_fds=(self._lock_fd,),
            ) as process,
        ):
            print("$", shlex.join(argv), file=log, flush=True)
            assert process.stdout is not None
            ended = False
            try:
                for line in process.stdout:
                    log.write(line)
                    lines.append(line.rstrip())
                    on_line(lines[-1])
                ended = True
            finally:
                if not ended:  # Ctrl-C: nothing may go on writing into a folder that is about to be removed
                    process.kill()
        if process.returncode != 0:
            raise CommandFailedError(argv, process.returncode, lines)
        return "\n".join(lines)


def building_environment(environ: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The environment of the programs that build: no other Python's settings, TMPDIR in ``scratch``."""
    kept = {
        name: value
        for name, value in environ.items()
        if name not in _MISPLACING
        and not name.startswith("PYTHON")
        and name not in {"VIRTUAL_ENV", "LD_PRELOAD"}
    }
    return kept | {"TMPDIR": str(scratch), "PYTHONNOUSERSITE": "1", "LC_ALL": "C.UTF-8"}
