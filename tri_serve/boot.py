"""What tells this machine, as it runs now, from others and from itself before it was started again."""

from __future__ import annotations

from pathlib import Path


def boot_id() -> str:
    """Differs on every machine and after every boot; empty where the kernel does not say it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
