"""A stand-in for ``vllm serve`` in a spec's ``engine.command``: the mock engine, with a process for its core.

It takes vLLM's command line. The core does nothing but bear the name by which a fleet finds and watches an
engine's core, so that a kill has both of an engine's processes to choose from. MOCK_START_SECONDS is how long
it takes to start; MOCK_FLAGS are further flags of the mock engine.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def _core(parent: int) -> None:
    """Be named as vLLM's core is, until the API server is gone."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NAME, b"VLLM::EngineCor", 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    while os.getppid() == parent:  # it may have died before the signal was asked for
        time.sleep(1.0)


def main() -> None:
    """Fork the core, then become the mock engine."""
    values = dict(
        word.removeprefix("--").split("=", 1)
        for word in sys.argv[1:]
        if word.startswith("--") and "=" in word
    )
    server = os.getpid()
    if os.fork() == 0:
        _core(server)
        os._exit(0)
    time.sleep(float(os.environ.get("MOCK_START_SECONDS", "0")))
    program = [
        sys.executable,
        "-m",
        "tri_serve.mock",
        f"--host={values['host']}",
        f"--port={values['port']}",
        f"--model={values['served-model-name']}",
        *shlex.split(os.environ.get("MOCK_FLAGS", "")),
    ]
    os.execv(sys.executable, program)


if __name__ == "__main__":
    main()
