"""Client keys on disk: names and SHA-256 hashes, never the keys themselves.

A key has 256 random bits, so a plain hash cannot be searched backwards; stretching is for passwords.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tri_serve.errors import SpecError, UsageError
from tri_serve.fleet.state import write_private
from tri_serve.places import data_dir
from tri_serve.spec.gateway import GatewaySpec

ENVIRONMENT_KEYS = "TRI_SERVE_API_KEYS"
"""Comma-separated keys in the clear, for containers and tests; hashed when read."""
NOBODY: Mapping[str, str] = {"(nobody)": "0" * 64}
"""Lets nobody in: no key is known, and none can be found, whose SHA-256 is zero."""
_PREFIX = "sk-tri-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class ClientKey(BaseModel):
    """One client key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=_NAME.pattern)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: str
    """ISO 8601, UTC."""
    disabled: str | None = None
    """When it was disabled; none: it is valid."""


class KeyFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[ClientKey, ...] = ()


def default_keys_file() -> Path:
    """Used when ``gateway.keys_file`` names none and it exists."""
    return data_dir() / "keys.json"


def hash_key(key: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> KeyFile:
    """The keys in ``path``. Raises SpecError if it is missing, readable by others, or not such a file."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
        file = KeyFile.model_validate(json.loads(text))
    except FileNotFoundError as error:
        raise SpecError(
            f"the file of client keys {path} does not exist", hint=f"tri-serve keys create NAME --file {path}"
        ) from error
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}") from error
    except (ValueError, ValidationError) as error:
        raise SpecError(
            f"{path} is not a file of client keys as `tri-serve keys create` writes it: "
            + str(error).splitlines()[0]
        ) from error
    if mode & 0o022:
        raise SpecError(f"{path} can be written by other users", hint=f"chmod 600 {path}")
    return file


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, keys: tuple[ClientKey, ...]) -> None:
    write_private(path, KeyFile(keys=keys).model_dump_json(indent=2) + "\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def create_key(path: Path, name: str) -> str:
    """Add a key and return it; it cannot be had again. Raises UsageError if the name is taken or none."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a key name: letters, digits and . _ @ - , at most 64 characters")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(path):
        keys = read_keys(path).keys if path.exists() else ()
        if any(key.name == name for key in keys):
            raise UsageError(f"a key named {name!r} exists in {path}", hint="tri-serve keys list shows them")
        key = _PREFIX + secrets.token_urlsafe(32)
        _write(path, (*keys, ClientKey(name=name, sha256=hash_key(key), created=_now())))
    return key


def disable_key(path: Path, name: str) -> bool:
    """Make a key invalid; False if it was already. Raises UsageError if there is none of that name."""
    read_keys(path)  # so that a missing file is said before its folder is locked
    with _locked(path):
        keys = read_keys(path).keys
        found = next((key for key in keys if key.name == name), None)
        if found is None:
            names = ", ".join(key.name for key in keys) or "none"
            raise UsageError(f"no key named {name!r} in {path}; there are: {names}")
        if found.disabled:
            return False
        _write(
            path, tuple(key.model_copy(update={"disabled": _now()}) if key is found else key for key in keys)
        )
    return True


def environment_key_hashes(environ: Mapping[str, str]) -> dict[str, str]:
    """Hashes of the keys in TRI_SERVE_API_KEYS, by a name for each."""
    keys = [key.strip() for key in environ.get(ENVIRONMENT_KEYS, "").split(",")]
    return {f"env-{number}": hash_key(key) for number, key in enumerate(filter(None, keys), 1)}


def client_key_hashes(
    gateway: GatewaySpec, environment_hashes: Mapping[str, str], *, may_lock: bool = False
) -> dict[str, str]:
    """Every valid client key's hash by name; empty means that the gateway asks for none.

    If keys are kept but all are disabled, to let everybody in would be the opposite of what was meant: raises
    SpecError, or (``may_lock``) gives NOBODY, so that the last key can be taken back from a running gateway.
    """
    path = Path(gateway.keys_file).expanduser() if gateway.keys_file is not None else default_keys_file()
    hashes = dict(environment_hashes)
    if gateway.keys_file is None and not path.exists():
        return hashes
    file = read_keys(path)
    hashes |= {key.name: key.sha256 for key in file.keys if not key.disabled}
    if not hashes and may_lock:
        return dict(NOBODY)
    if not hashes:
        state = "every client key in it is disabled" if file.keys else "it holds no client key"
        raise SpecError(
            f"{path}: {state}, so nobody could use the gateway",
            hint="tri-serve keys create NAME makes one; `tri-serve restart gateway` takes the last one back from "
            "a running gateway",
        )
    return hashes


def check_exposure(gateway: GatewaySpec, client_keys: int) -> None:
    """Raises UsageError if everybody on the network could use the model and nobody said that this is meant."""
    if gateway.is_loopback or client_keys or gateway.allow_unauthenticated:
        return
    raise UsageError(
        f"gateway.host {gateway.host} can be reached from other machines, and no client key is set",
        hint="tri-serve keys create NAME makes a key; --set gateway.allow_unauthenticated=true lets all in",
    )
