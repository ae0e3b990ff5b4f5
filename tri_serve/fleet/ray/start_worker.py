"""How the raylet of a private Ray starts a worker, in place of Ray's own ``setup_worker.py`` (Ray 2.60).

Ray's imports all of Ray to read one argument, and then becomes a shell and another Python, which imports it again,
and Ray Serve besides: nearly all that a worker's start costs. Here the worker is a fork of a process that has
imported all that already (worker_source.py). Without that process the worker begins in this one. Run as a file, so
that it begins in milliseconds. Nothing of ours asks for a runtime environment, so there is none to set up.
"""

from __future__ import annotations

import array
import json
import os
import runpy
import socket
import sys

SOCKET = "workers.sock"
"""Of the process to fork from, in the folder of the private Ray."""
_FOLDER = "--temp-dir="
_NOT_THE_WORKERS = ("--serialized-runtime-env-context=", "--language=")
_LENGTH_BYTES = 4


def asked_to_fork(path: str, arguments: list[str]) -> bool:
    """Whether there is a worker now that has this process's arguments, variables, and standard streams."""
    order = json.dumps([arguments, dict(os.environ)]).encode()
    streams = array.array("i", (0, 1, 2))
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            length = len(order).to_bytes(_LENGTH_BYTES, "big")
            connection.sendmsg([length], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
            connection.sendall(order)
            return bool(connection.recv(1))
    except OSError:
        return False


def take_order(connection: socket.socket) -> tuple[list[str], dict[str, str], list[int]]:
    """Of the other side: arguments, variables, standard streams. Raises OSError or ValueError if there is none."""
    begin, streams, _, _ = socket.recv_fds(connection, _LENGTH_BYTES, 3)
    with connection.makefile("rb") as rest:
        length = int.from_bytes(begin, "big")
        text = rest.read(length)
    arguments, variables = json.loads(text)
    return arguments, variables, streams


def become_worker(arguments: list[str]) -> None:
    """Run Ray's program for a worker, whose path and arguments these are, here."""
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


def main(arguments: list[str]) -> None:
    """``arguments``: as Ray's setup_worker.py takes them."""
    arguments = [word for word in arguments if not word.startswith(_NOT_THE_WORKERS)]
    folders = [word.removeprefix(_FOLDER) for word in arguments if word.startswith(_FOLDER)]
    if not asked_to_fork(f"{folders[0]}/{SOCKET}", arguments):
        become_worker(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
