"""What every test stands on."""

from __future__ import annotations

import signal

# A test run that a shell put into the background ignores SIGINT, and so would every program that it starts: tests
# of Ctrl-C would wait for nothing. A handler, unlike SIG_IGN, is not inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
