"""One file on its way from the hub to the disk: from where it stopped, as often as it takes, checked at the end."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import requests

from tri_serve.checkpoint.hub import (
    BusyError,
    Hub,
    HubFile,
    HubRevision,
    explain,
    is_untrusted,
    pause_seconds,
)
from tri_serve.errors import CheckpointError, ConnectionFailedError, ResourceError

_CHUNK = 2**18
"""What a lost connection may cost: requests drops a chunk that is not full when it breaks."""
_ATTEMPTS = 5
"""Connections in a row that may bring nothing."""
_LOCK_SECONDS = 0.1
"""Between two looks at whether another one has finished."""


class Stopped(Exception):  # noqa: N818 -- no error: the user, or another file's failure, ended it
    """It was told to stop; what it has is kept."""


class Download:
    """Fetches ``file`` to ``blob``. The counters may be read by any thread while it runs."""

    def __init__(self, revision: HubRevision, file: HubFile, blob: Path) -> None:
        self.file = file
        self.fetched = 0
        """Bytes that came over the network."""
        self.finished = False
        self._revision = revision
        self._blob = blob
        self._partial = blob.with_name(f"{blob.name}.incomplete")
        self.present = self._on_disk()
        """Bytes that are on the disk."""

    def _on_disk(self) -> int:
        for path in (self._blob, self._partial):
            try:
                return min(path.stat().st_size, self.file.size)
            except FileNotFoundError:
                continue
        return 0

    def run(self, hub: Hub, stop: threading.Event) -> None:
        """Fetch what is missing. Raises Stopped, CheckpointError, ResourceError, ConnectionFailedError."""
        try:
            with exclusive(self._blob.parents[1], self._blob.name, stop):
                if not self._is_complete():
                    self._fetch_all(hub, stop)
                    self._check()
                    self._partial.replace(self._blob)
        except OSError as error:
            if isinstance(error, requests.RequestException):
                raise
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise ResourceError(
                f"{self.file.name} could not be written to {self._blob.parent}: {error.strerror}",
                hint="free some space and run it again: it goes on where it stopped" if full else None,
            ) from error
        self.present, self.finished = self.file.size, True

    def _is_complete(self) -> bool:
        try:
            return self._blob.stat().st_size == self.file.size
        except FileNotFoundError:
            return False

    def _fetch_all(self, hub: Hub, stop: threading.Event) -> None:
        failures = 0
        with self._partial.open("ab") as out:
            if out.tell() > self.file.size:
                out.truncate(0)
            while (start := out.seek(0, os.SEEK_END)) < self.file.size:
                self.present = start
                reply: requests.Response | None = None
                problem: ConnectionFailedError
                try:
                    self._fetch(hub, out, start, stop)
                except BusyError as error:
                    reply, problem = error.reply, error
                except requests.RequestException as error:
                    problem = explain(error, hub.endpoint)
                    if is_untrusted(error):
                        raise problem from error
                else:
                    continue
                failures = 0 if out.seek(0, os.SEEK_END) > start else failures + 1
                if failures >= _ATTEMPTS:
                    raise ConnectionFailedError(
                        f"{self.file.name}: {problem.message}, {failures} times in a row",
                        hint="run it again: it goes on where it stopped",
                        status=problem.status,
                    ) from problem
                if stop.is_set():
                    raise Stopped
                hub.pause(pause_seconds(reply, failures))

    def _fetch(self, hub: Hub, out: BinaryIO, start: int, stop: threading.Event) -> None:
        """Append what one connection brings."""
        with hub.open(self._revision.repository, self._revision.commit, self.file, start) as reply:
            if start and reply.status_code == 200:  # the server knows no ranges: from the beginning
                out.truncate(0)
                self.present = 0
            for chunk in reply.iter_content(_CHUNK):
                if self.present + len(chunk) > self.file.size:
                    raise CheckpointError(
                        f"{self.file.name} has more bytes than the {self.file.size:,} that the hub lists",
                        hint="a proxy, or HF_ENDPOINT, gives out something else than the file",
                    )
                out.write(chunk)
                self.present += len(chunk)
                self.fetched += len(chunk)
                if stop.is_set():
                    raise Stopped
            out.flush()
        if self.present < self.file.size and self.present == start:
            raise requests.exceptions.ConnectionError("the answer was empty")

    def _check(self) -> None:
        """Raises CheckpointError, and removes the file, if its content is not what its name says."""
        if self.file.large:
            digest = hashlib.sha256()
        else:  # git's name of a blob
            digest = hashlib.sha1(f"blob {self.file.size}\0".encode(), usedforsecurity=False)
        with self._partial.open("rb") as stream:
            while block := stream.read(_CHUNK):
                digest.update(block)
            os.fsync(stream.fileno())
        if digest.hexdigest() != self.file.blob:
            self._partial.unlink()
            raise CheckpointError(
                f"{self.file.name} was fetched in full, and its checksum is wrong; it was removed",
                hint="run it again; if that happens again, a proxy or a disk changes what it passes on",
            )


@contextmanager
def exclusive(repository: Path, name: str, stop: threading.Event) -> Iterator[None]:
    """Held by one at a time, where the hub's own client has its locks; goes with its holder.

    ``repository``: its directory in the cache. ``name``: of the blob, or of what else is made there. Raises Stopped
    if ``stop`` is set while somebody else holds it, OSError if the cache cannot be written.
    """
    lock = repository.parent / ".locks" / repository.name / f"{name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop.wait(_LOCK_SECONDS):
                    raise Stopped from None
        yield
