"""The console script: what may go wrong before the first command is there ends without a traceback.

Imports of its own are few: the signal of Ctrl-C can come while the rest is imported.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130
"""128 + SIGINT, as shells report a program that Ctrl-C ended."""
_STREAMS = 3
"""stdin, stdout and stderr."""
_STDERR = 2


def main() -> None:
    """``tri-serve``."""
    _hold_streams()
    # A program that was started in the background ignores it, and goes on to.
    python_s = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if python_s:
        signal.signal(signal.SIGINT, _leave)
    from tri_serve.cli.main import main as start

    try:
        if python_s:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        start()
    except KeyboardInterrupt:  # between two commands' own handling of it
        sys.exit(INTERRUPTED)


def _leave(_number: int, _frame: FrameType | None) -> None:
    """Nothing has been started or opened yet: there is nothing to end in order."""
    os._exit(INTERRUPTED)


def _hold_streams() -> None:
    """Give streams that were closed (``tri-serve plan >&-``) a file in their place.

    Else the first file that is opened would be written to as stdout, and Python would have None where a stream is
    asked whether it is a terminal. Writing results ends in an error; what would go to stderr is lost.
    """
    for number in range(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free: this one.
            os.open(os.devnull, os.O_WRONLY if number == _STDERR else os.O_RDONLY)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the program
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the program
    if sys.stderr is None:
        sys.stderr = open(_STDERR, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the program
