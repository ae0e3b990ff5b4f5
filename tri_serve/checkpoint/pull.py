"""Fetch a checkpoint from the hub into the local Hugging Face cache, where every other tool finds it too.

What was fetched is never fetched again: an interrupted file lies as ``<blob>.incomplete`` and goes on where it
stopped, after any kind of end. A file counts only once its checksum agrees, and a revision only once all of its
files are there: its links are made last. Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tri_serve.checkpoint.download import Download, Stopped, exclusive
from tri_serve.checkpoint.hub import Hub, HubFile, HubRevision
from tri_serve.checkpoint.resolve import (
    check_revision,
    hub_cache,
    is_hub_name,
    is_offline,
    is_path_below,
)
from tri_serve.errors import CheckpointError, ResourceError, TriServeError
from tri_serve.spec.engine import ModelSpec

_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*")
_TEMPLATES = "additional_chat_templates/*.jinja"
_CODE = "*.py"
_COPIES = ("consolidated*.safetensors", "*.gguf")
"""The same weights once more, in another program's layout."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_CONNECTIONS = 4
_POLL_SECONDS = 0.2
_RATE_SECONDS = 15.0
_SPARE = 256 * 2**20
"""Bytes of a disk that are left alone."""
_LINKS = "snapshots"
"""Names the lock of a repository's links; no blob is called so."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOB = re.compile(r"[0-9a-f]{40,64}")


@dataclass(frozen=True)
class PullProgress:
    """How far it is."""

    done: int
    """Bytes that are there, those of earlier times included."""
    total: int
    rate: float
    """Bytes a second of late; 0 before it is known."""
    files_done: int
    files: int

    @property
    def seconds_left(self) -> float | None:
        """At that rate; None if it is not known."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None


@dataclass(frozen=True)
class Wanted:
    """What of a repository belongs into the cache, and how much of it is there."""

    revision: HubRevision
    files: tuple[HubFile, ...]
    repository: Path
    """Its directory in the cache."""
    downloads: tuple[Download, ...]

    @property
    def missing(self) -> int:
        """Bytes that are to be fetched."""
        return sum(download.file.size - download.present for download in self.downloads)


@dataclass(frozen=True)
class Pulled:
    """What is there now."""

    path: Path
    commit: str
    total: int
    fetched: int
    """Bytes that came over the network this time."""
    left_out: tuple[str, ...]
    """Files of the repository that were not wanted."""


def pull(
    model: ModelSpec,
    *,
    environ: Mapping[str, str] = os.environ,
    report: Callable[[PullProgress], None] = lambda progress: None,
    pause: Callable[[float], None] = time.sleep,
) -> Pulled:
    """Fetch what of ``model`` is not in the Hugging Face cache, and return its directory there.

    ``report`` is called a few times a second, in the caller's thread. Ctrl-C keeps what was fetched. Raises
    CheckpointError for what the hub refuses or does not have, ResourceError if the disk is too small,
    ConnectionFailedError if the connection cannot be made or is lost again and again.
    """
    wanted = look_up_wanted(model, environ, pause)
    revision, repository, downloads = wanted.revision, wanted.repository, wanted.downloads
    _require_disk(repository, wanted.missing, model.source)
    _run(downloads, environ, report, pause)
    try:
        # What is made has fixed names, and a branch may have moved between two pulls: one lock for all commits.
        with exclusive(repository, _LINKS, threading.Event()):
            _link(repository, revision, wanted.files, model.revision or "main")
    except OSError as error:
        raise ResourceError(
            f"{model.source} was fetched, and its files could not be given their names in {repository}: "
            f"{error.strerror}"
        ) from error
    total = sum(download.file.size for download in downloads)
    chosen = {file.name for file in wanted.files}
    return Pulled(
        path=repository / "snapshots" / revision.commit,
        commit=revision.commit,
        total=total,
        fetched=sum(download.fetched for download in downloads),
        left_out=tuple(file.name for file in revision.files if file.name not in chosen),
    )


def look_up_wanted(model: ModelSpec, environ: Mapping[str, str], pause: Callable[[float], None]) -> Wanted:
    """What ``pull`` would fetch. Raises as it does, but for the disk's size."""
    name = model.source
    if not is_hub_name(name):
        raise CheckpointError(f"checkpoint {name}: only a hub name (owner/name) can be fetched")
    if is_offline(environ):
        raise CheckpointError(
            f"{name} is to be fetched, and HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids it",
            hint="unset them for this once; engines are started offline anyway",
        )
    check_revision(model.revision)
    revision = Hub(environ, pause=pause).look_up(name, model.revision)
    if not _COMMIT.fullmatch(revision.commit):
        raise CheckpointError(f"{name}: the hub calls its commit {revision.commit!r}, which is none")
    wanted = select_files(revision, remote_code=model.trust_remote_code)
    repository = hub_cache(environ) / f"models--{name.replace('/', '--')}"
    blobs = repository / "blobs"
    try:
        blobs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"the Hugging Face cache cannot be written ({blobs}: {error.strerror})",
            hint="set HF_HOME to a directory that you may write to",
        ) from error
    downloads = tuple(Download(revision, file, blobs / file.blob) for file in _one_each(wanted))
    return Wanted(revision, wanted, repository, downloads)


def select_files(revision: HubRevision, *, remote_code: bool) -> tuple[HubFile, ...]:
    """What an engine reads of a repository, small files first: weights, configuration, tokenizer, chat template.

    Never pickles, which run what is in them; Python code only if the user trusts it. Raises CheckpointError if no
    safetensors are among them, or a name leads out of the directory or below another one's.
    """
    weights = [file for file in revision.files if fnmatch.fnmatchcase(file.name, "model*.safetensors")]
    chosen = []
    for file in revision.files:
        path = PurePosixPath(file.name)
        if not (is_path_below(file.name) and _BLOB.fullmatch(file.blob)):
            raise CheckpointError(f"{revision.repository} names a file {file.name!r}, which cannot be stored")
        top = len(path.parts) == 1
        patterns = (*_WANTED, _CODE) if remote_code else _WANTED
        if any(fnmatch.fnmatchcase(file.name, pattern) for pattern in _COPIES) and weights:
            continue
        if (
            top and any(fnmatch.fnmatchcase(file.name, pattern) for pattern in patterns)
        ) or fnmatch.fnmatchcase(file.name, _TEMPLATES):
            chosen.append(file)
    folders = {str(folder) for file in chosen for folder in PurePosixPath(file.name).parents}
    if both := next((file.name for file in chosen if file.name in folders), None):
        raise CheckpointError(f"{revision.repository} names {both!r} as a file, and files below it")
    if not any(file.name.endswith(".safetensors") for file in chosen):
        pickles = any(fnmatch.fnmatchcase(file.name, p) for file in revision.files for p in _PICKLES)
        raise CheckpointError(
            f"{revision.repository} has no safetensors files"
            + (", only pickles, which can run any code when they are read" if pickles else ""),
            hint="look for another repository of the same model, or convert it with transformers' save_pretrained",
        )
    return tuple(sorted(chosen, key=lambda file: file.size))


def _one_each(files: Sequence[HubFile]) -> list[HubFile]:
    """Without those whose content another one has."""
    return list({file.blob: file for file in files}.values())


def _require_disk(folder: Path, needed: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        raise ResourceError(
            f"disk: {name} needs {needed / 2**30:.2f} GiB more in {folder}, and {free / 2**30:.2f} GiB are free",
            hint="free some space, or set HF_HOME to a directory on a larger disk",
        )


def _run(
    downloads: Sequence[Download],
    environ: Mapping[str, str],
    report: Callable[[PullProgress], None],
    pause: Callable[[float], None],
) -> None:
    """All of them, a few at once; progress is told from here."""
    waiting, stop = deque(downloads), threading.Event()
    errors: list[TriServeError] = []

    def work() -> None:
        hub = Hub(environ, pause=pause)
        while not stop.is_set():
            try:
                download = waiting.popleft()
            except IndexError:
                return
            try:
                download.run(hub, stop)
            except Stopped:
                return
            except TriServeError as error:
                errors.append(error)
                stop.set()

    # Daemons: they must not keep a process that was interrupted until a silent server's timeout.
    threads = [
        threading.Thread(target=work, name=f"pull-{n}", daemon=True)
        for n in range(min(_CONNECTIONS, len(waiting)))
    ]
    total = sum(download.file.size for download in downloads)
    seen: deque[tuple[float, int]] = deque()

    def tell() -> None:
        now, fetched = time.monotonic(), sum(download.fetched for download in downloads)
        seen.append((now, fetched))
        while now - seen[0][0] > _RATE_SECONDS:
            seen.popleft()
        elapsed = now - seen[0][0]
        report(
            PullProgress(
                done=sum(download.present for download in downloads),
                total=total,
                rate=max(0.0, (fetched - seen[0][1]) / elapsed) if elapsed > 0 else 0.0,
                files_done=sum(download.finished for download in downloads),
                files=len(downloads),
            )
        )

    tell()
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(_POLL_SECONDS)
                tell()
    finally:
        stop.set()
    if errors:
        raise errors[0]
    assert all(download.finished for download in downloads), "a thread died of something unforeseen"


def _link(repository: Path, revision: HubRevision, files: Sequence[HubFile], name: str) -> None:
    """Make the revision visible: links by name to the blobs, and what branch or tag stands for it."""
    snapshot = repository / "snapshots" / revision.commit
    making = snapshot.with_name(f".making-{revision.commit}")
    shutil.rmtree(making, ignore_errors=True)
    for folder in (making, snapshot) if not snapshot.exists() else (snapshot,):
        for file in files:
            link = folder / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            target = Path(os.path.relpath(repository / "blobs" / file.blob, (snapshot / file.name).parent))
            if link.is_symlink() and link.readlink() == target:
                continue
            link.unlink(missing_ok=True)
            link.symlink_to(target)
        if folder is making:
            making.rename(snapshot)
    if name != revision.commit:
        reference = repository / "refs" / name
        reference.parent.mkdir(parents=True, exist_ok=True)
        unfinished = reference.with_name(f".{reference.name}.tmp")
        unfinished.write_text(revision.commit, encoding="utf-8")
        unfinished.replace(reference)
