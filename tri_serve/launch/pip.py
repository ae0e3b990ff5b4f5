"""pip inside an engine environment: progress while it works, one clear line when it fails."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from tri_serve.errors import EngineEnvironmentError, ResourceError, TriServeError
from tri_serve.launch.commands import CommandFailedError, CommandLog

Report = Callable[[str], None]

_PROGRESS_SECONDS = 5.0
_UNREACHABLE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeoutError|ProxyError"
)


class PackageNotFoundError(EngineEnvironmentError):
    """pip reached its sources, and none of them carries the package."""


def pip_install(
    python: Path, commands: CommandLog, report: Report, *arguments: str, total: int | None = None
) -> None:
    """``pip install`` with progress; ``total`` is how many packages there are at most.

    Only wheels are taken: a source distribution would fetch build tools that nobody has pinned.
    Bytecode is left out: see install.py.
    """
    fetched = 0
    expected = total
    reported = time.monotonic()

    def progress(line: str) -> None:
        nonlocal fetched, expected, reported
        if line.startswith(("Collecting ", "Processing ")):
            fetched += 1
        elif line.startswith("Ignoring ") and expected is not None:
            expected -= 1  # meant for another platform or Python
        elif fetched > 1 and line.startswith("Installing collected packages"):
            report(f"  {fetched} packages fetched, unpacking")
            fetched = 0
        if fetched > 1 and time.monotonic() - reported > _PROGRESS_SECONDS:
            reported = time.monotonic()
            report(f"  {fetched}{f' of {expected}' if expected else ''} packages fetched")

    flags = ("--no-compile", "--only-binary", ":all:", "--no-user", "--progress-bar", "off")
    argv = [str(python), "-I", "-m", "pip", "--no-input", "--disable-pip-version-check", "install", *flags]
    try:
        commands.run([*argv, *arguments], progress)
    except CommandFailedError as error:
        raise explain_failure(error, commands.log) from error


def explain_failure(error: CommandFailedError, log: Path) -> TriServeError:
    """The error that says in one line why pip failed, from what it printed."""
    text = "\n".join(error.lines)
    see = f"everything pip said is in {log}"
    if "No space left on device" in text:
        return ResourceError(f"the disk became full while packages were installed in {log.parent}", hint=see)
    if "DO NOT MATCH THE HASHES" in text:
        culprit = re.search(r"^\s+(\S+==\S+)? ?from (\S+)", text, flags=re.MULTILINE)
        name = f": {culprit[1] or culprit[2]}" if culprit else ""
        return EngineEnvironmentError(
            f"a package differs from its pinned hash and was not installed{name}",
            hint=f"a package source or a cache gives out something else than the pinned file; {see}",
        )
    missing = re.search(r"No matching distribution found for (\S+)", text)
    # One of several sources may be away while another, which answers, does not carry the package.
    answered = missing is not None and "(from versions: none)" not in text
    if not answered and _UNREACHABLE.search(text):
        return EngineEnvironmentError(
            "the package index could not be reached",
            hint=f"check the network, or pip's own settings (pip config list); {see}",
        )
    if missing:
        return PackageNotFoundError(
            f"none of pip's sources has {missing[1]} for this Python and machine",
            hint=f"check the version, and pip's own settings (pip config list); {see}",
        )
    last = next((line for line in reversed(error.lines) if line.startswith("ERROR:")), None)
    words = (last or (error.lines[-1] if error.lines else str(error))).removeprefix("ERROR: ")
    return EngineEnvironmentError(f"pip failed: {words}", hint=see)
