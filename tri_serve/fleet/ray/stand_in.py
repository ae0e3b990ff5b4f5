"""Stands where a raylet wants an agent that a private Ray has no use for: does nothing, and ends with the raylet.

Run as a file; the raylet holds the other end of its stdin.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.stdin.buffer.read()
