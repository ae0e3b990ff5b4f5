"""What the workers of a private Ray are forked from: a process that has imported once what each of them needs.

An import of Ray Serve takes the best part of a second of the processor, and a private Ray has a controller and one
agent a part. Forks share it, and some of the memory that it takes. The process has no thread but this one, and no
connection to Ray. Its stdin is the socket on which workers are asked for (start_worker.py).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tri_serve.fleet.ray.start_worker import SOCKET, become_worker, take_order
from tri_serve.process.guard import PR_SET_PDEATHSIG, prctl

_MODULES = (
    "ray._private.workers.default_worker",
    "ray.serve._private.controller",
    "ray.serve._private.replica",
    "tri_serve.fleet.ray.agents",
)
_RAYLET, _JOB = "RAY_RAYLET_PID", "RAY_JOB_ID"
"""Variables that Ray reads when it is imported, and never again: a worker of others is none for this process."""
_FIRST_JOB = "01000000"
"""Ray counts those who connect: the first is the bridge, and whatever Serve starts belongs to its job for ever."""
_ORDER_SECONDS = 5.0


def spawn(folder: Path, raylet: int) -> None:
    """Start the process for the workers of the raylet with that pid; it ends with this one.

    ``folder``: of the private Ray, the user's alone.
    """
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(folder / SOCKET))
        door.listen()
        subprocess.Popen(
            [sys.executable, "-m", "tri_serve.fleet.ray.worker_source", str(os.getpid())],
            env=os.environ | {_RAYLET: str(raylet), _JOB: _FIRST_JOB},
            stdin=door.fileno(),
            stdout=subprocess.DEVNULL,
        )


def _until_asked(door: socket.socket) -> list[str]:
    """In each worker, and nowhere else: the arguments that it was asked with."""
    while True:
        connection, _ = door.accept()
        with connection, contextlib.suppress(OSError, ValueError):  # whoever asked does without, then
            connection.settimeout(_ORDER_SECONDS)
            arguments, variables, streams = take_order(connection)
            try:
                ours = all(variables.get(name) == os.environ[name] for name in (_RAYLET, _JOB))
                if ours and os.fork() == 0:
                    _take_place(connection, variables, streams)
                    return arguments
            finally:
                for stream in streams:
                    os.close(stream)


def _take_place(connection: socket.socket, variables: dict[str, str], streams: list[int]) -> None:
    """Be as the process that asked, which can go then."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)  # as the raylet has its workers: when one dies, it ends what is left of its group
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.environ.clear()
    os.environ.update(variables)
    try:
        connection.sendall(b"1")
    except OSError:  # it is gone already, and another worker begins in its stead
        os._exit(1)


def main() -> None:
    """Entry point. The argument is the pid of the process that this one ends with."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        return
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy's threads would not be there in a fork
    for module in _MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # what the forks share stays shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    become_worker(_until_asked(socket.socket(fileno=os.dup(0))))


if __name__ == "__main__":
    main()
