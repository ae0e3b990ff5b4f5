"""Make a format of the tiny checkpoint in the cache, once; later callers get what is there, if it is whole."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tri_serve.checkpoint import safetensors
from tri_serve.checkpoint.safetensors import NewTensor, read_header, write_file
from tri_serve.checkpoint.tiny import nf4, pack
from tri_serve.errors import MissingExtraError, ResourceError, UsageError

TinyFormat = Literal["bf16", "awq", "gptq", "ct", "bnb4"]
TINY_FORMATS: tuple[TinyFormat, ...] = ("bf16", "awq", "gptq", "ct", "bnb4")

SOURCE = Path(__file__).parent / "bf16"
"""The trained checkpoint, as committed."""
SIDE_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")
"""Copied as they are into every format."""
MANIFEST = "tri-serve.json"
"""SHA-256 of every other file of a derived directory. Engines do not read it."""


def tiny_checkpoint(fmt: TinyFormat, cache: Path) -> Path:
    """The directory of the tiny checkpoint in ``fmt`` below ``cache``, made now if it is not there or not whole.

    Processes may call it at once: one makes it, the others wait. The name carries a hash of everything that the
    bytes depend on, so another version of tri-serve makes its own. A 4-bit format needs numpy when it is made.
    Raises MissingExtraError without numpy, ResourceError where the cache cannot be written.
    """
    parent = cache / "checkpoints"
    target = parent / f"tiny-{fmt}-{_fingerprint(fmt)}"
    if is_whole(target):
        return target
    _require_numpy(fmt)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with _lock(parent / ".lock"):
            # Somebody else may have made it while this process waited.
            if not is_whole(target):
                _make(fmt, target)
    except OSError as error:
        raise ResourceError(
            f"the tiny checkpoint cannot be written to {parent}: {error.strerror}",
            hint="free some disk space, or set XDG_CACHE_HOME to a directory that you may write to",
        ) from error
    return target


def export_tiny(fmt: TinyFormat, directory: Path) -> None:
    """Write the tiny checkpoint in ``fmt`` to ``directory``, which must be new or empty.

    Raises UsageError if it is neither, MissingExtraError without numpy, OSError as the file system does.
    """
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise UsageError(
            f"{directory} exists and is not an empty directory; it was not touched",
            hint="name a directory that does not exist yet",
        )
    _require_numpy(fmt)
    directory.mkdir(parents=True, exist_ok=True)
    write_format(fmt, directory)


def write_format(fmt: TinyFormat, directory: Path) -> None:
    """Write the tiny checkpoint in ``fmt`` into ``directory``, which must exist. Same bytes every time."""
    for name in SIDE_FILES:
        shutil.copyfile(SOURCE / name, directory / name)
    if fmt == "bf16":
        shutil.copyfile(SOURCE / "config.json", directory / "config.json")
        shutil.copyfile(SOURCE / "model.safetensors", directory / "model.safetensors")
    else:
        packer, quantization = pack.PACKERS[fmt]
        config = json.loads((SOURCE / "config.json").read_text(encoding="utf-8"))
        config["quantization_config"] = quantization
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tensors: dict[str, NewTensor] = {}
        for name, tensor in read_header(SOURCE / "model.safetensors").items():
            if name.endswith("_proj.weight"):
                weight = pack.from_bfloat16(tensor.read(), tensor.shape)
                layer = name.removesuffix(".weight")
                tensors |= {f"{layer}.{part}": packed for part, packed in packer(weight).items()}
            else:
                tensors[name] = NewTensor(tensor.dtype, tensor.shape, tensor.read())
        write_file(directory / "model.safetensors", tensors)
    manifest = {file.name: _sha256(file) for file in sorted(directory.iterdir())}
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def is_whole(directory: Path) -> bool:
    """Whether every file of a derived directory is what was written: some ten milliseconds."""
    try:
        manifest: object = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        found = {file.name: _sha256(file) for file in directory.iterdir() if file.name != MANIFEST}
    except (OSError, ValueError):
        return False
    return found == manifest


def _make(fmt: TinyFormat, target: Path) -> None:
    """Under the lock: write beside ``target``, then rename."""
    # One fixed name: what a killed process left there is removed by the next one, and cannot pile up.
    making, damaged = target.with_name(f".making-{target.name}"), target.with_name(f".damaged-{target.name}")
    for leftover in (making, damaged):
        if leftover.exists():
            shutil.rmtree(leftover)
    making.mkdir()
    write_format(fmt, making)
    for file in making.iterdir():
        # Else a power cut may leave a renamed directory of empty files.
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    if target.exists():
        target.rename(damaged)
    making.rename(target)
    if damaged.exists():
        shutil.rmtree(damaged)


def _fingerprint(fmt: TinyFormat) -> str:
    """Of the trained files and of the code that packs them."""
    digest = hashlib.sha256(fmt.encode())
    code = (Path(module) for module in (__file__, pack.__file__, nf4.__file__, safetensors.__file__))
    for file in (*sorted(SOURCE.iterdir()), *code):
        digest.update(f"{file.name}:{_sha256(file)}\n".encode())
    return digest.hexdigest()[:12]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Held by one process at a time; the kernel lets go of it when the holder dies."""
    with file.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _require_numpy(fmt: TinyFormat) -> None:
    if fmt == "bf16":
        return
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("checkpoint", f"making the tiny checkpoint in format {fmt}") from error
