"""A private Ray for one release: one node, loopback only, with a token, beside whatever other Ray runs here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tri_serve.errors import FleetError
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.state import write_private

HOST = "127.0.0.1"
OBJECT_STORE_BYTES = 80_000_000
"""Nothing of ours goes through it; Ray takes no less than 75 MB."""
_SECRETS = frozenset({"TRI_SERVE_API_KEYS", "TRI_SERVE_API_KEY", "VLLM_API_KEY", "NOTIFY_SOCKET"})


_LONGEST_FOLDER = 107 - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Ray's UNIX sockets lie below its folder, and Linux takes paths of 107 bytes (unix(7))."""


def temporary_folder(paths: ReleasePaths) -> Path:
    """Where the private Ray keeps its session: in TMPDIR, unless that is too long a path for its sockets."""
    digest = hashlib.sha256(os.fsencode(paths.root)).hexdigest()[:8]
    below = Path(f"tri-serve-ray-{os.getuid()}") / digest
    folder = Path(tempfile.gettempdir()) / below
    fits = len(os.fsencode(folder)) <= _LONGEST_FOLDER
    return folder if fits else Path("/tmp") / below  # noqa: S108 -- made and checked by make_temporary_folder


def make_temporary_folder(paths: ReleasePaths) -> Path:
    """An empty folder that is the user's alone. Raises FleetError if it cannot be had."""
    folder = temporary_folder(paths)
    discard_temporary_folder(paths)
    for each in (folder.parent, folder):
        try:
            each.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise FleetError(
                f"cannot make {each} for Ray: {error.strerror}",
                hint="set TMPDIR to a place with room, or do without Ray: --supervisor process",
            ) from error
        if each.is_symlink() or each.stat().st_uid != os.getuid():
            raise FleetError(f"{each} belongs to another user", hint="set TMPDIR to a place of yours")
        each.chmod(0o700)
    return folder


def discard_temporary_folder(paths: ReleasePaths) -> None:
    """Remove what a private Ray left: logs and sockets."""
    folder = temporary_folder(paths)
    if folder.parent.is_symlink():
        return
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # another release's Ray is in it
        folder.parent.rmdir()


def token_file(paths: ReleasePaths) -> Path:
    """Where the private Ray's token is, readable by the user alone."""
    return paths.root / "ray-token"


def make_token(paths: ReleasePaths) -> Path:
    """A new token, which whoever connects must know; other users of this machine do not.

    Raises FleetError if it cannot be written.
    """
    path = token_file(paths)
    try:
        write_private(path, secrets.token_hex(32))
    except OSError as error:
        raise FleetError(f"cannot write {path}: {error.strerror}") from error
    return path


def discard(paths: ReleasePaths) -> None:
    """Remove all that a private Ray leaves on the disk; nothing of it may run any more."""
    discard_temporary_folder(paths)
    token_file(paths).unlink(missing_ok=True)


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` without what Ray's processes need not know."""
    return {name: value for name, value in environ.items() if name not in _SECRETS}


def private_environment(environ: Mapping[str, str], token: Path) -> dict[str, str]:
    """Variables of everything that belongs to the private Ray; the user's own Ray settings stay out of it."""
    kept = {
        name: value
        for name, value in without_secrets(environ).items()
        if not name.startswith(("RAY_", "PYTHON"))
    }
    return kept | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # A Ray that is no cluster stays on the loopback interface; by default it listens on all.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Ray would kill an agent, and the engine with it, when the machine is short of memory.
        "RAY_memory_monitor_refresh_ms": "0",
        # By default agents run at nice 15, and so would engines and gateway: slow beside anything else.
        "RAY_worker_niceness": "0",
        # Workers are started for the actors that need them; those kept ready cost memory and the start's time.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_enable_worker_prestart": "0",
        # Serve's controller looks at every agent ten times a second by default, for ever.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
        # A folder called ray or tri_serve in the working directory must not shadow the package.
        "PYTHONSAFEPATH": "1",
    }


def head_command(*, port: int, folder: Path, cpus: int, gpus: int) -> list[str]:
    """What starts the private Ray; it stays in the foreground, and ends when one of Ray's processes dies."""
    return [
        sys.executable,
        "-m",
        "tri_serve.fleet.ray.start_head",
        f"--host={HOST}",
        f"--port={port}",
        f"--folder={folder}",
        f"--cpus={cpus}",
        f"--gpus={gpus}",
        f"--object-store={OBJECT_STORE_BYTES}",
    ]
