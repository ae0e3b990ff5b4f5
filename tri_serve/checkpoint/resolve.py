"""From ``model.source`` to a directory on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from tri_serve.errors import CheckpointError
from tri_serve.spec.engine import ModelSpec
from tri_serve.spec.secrets import mask_urls

TINY = "tiny:"

# huggingface_hub's rule for repository names, with the owner that every model has.
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")

_TRUE = frozenset({"1", "ON", "YES", "TRUE"})
"""What huggingface_hub takes for yes, in capitals."""

_COMMIT = re.compile(r"[0-9a-f]{40}")

_LONGEST_NAME = 250
"""Bytes of one part of a name; Linux takes 255 (NAME_MAX), and an unfinished file's name is 5 longer."""
_NO_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, which no terminal should be given, and what UTF-8 cannot write."""


def resolve_source(model: ModelSpec, cache: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """The directory with the checkpoint that ``model`` names.

    ``tiny:*`` is made in ``cache``. A directory is taken as it is. ``owner/name`` is looked up in the local Hugging
    Face cache; nothing is downloaded. Raises CheckpointError if it is not there, saying how to get it.
    """
    source = model.source
    if source.startswith(TINY):
        return _tiny(source.removeprefix(TINY), cache)
    directory = Path(source).expanduser()
    if directory.is_dir():
        return directory.resolve()
    if is_hub_name(source):
        check_revision(model.revision)
        return _in_hub_cache(source, model.revision, hub_cache(environ))
    from tri_serve.checkpoint.tiny import TINY_FORMATS

    found = "it is not a directory" if directory.exists() else "there is no such directory"
    raise CheckpointError(
        # A plan quotes this in its notes.
        f"checkpoint {mask_urls(source)}: {found}; a directory, a hub name (owner/name) or "
        f"{' '.join(TINY + name for name in TINY_FORMATS)} is allowed",
        path=directory,
        hint=f"a relative path starts from {Path.cwd()}" if not directory.is_absolute() else None,
    )


def is_hub_name(source: str) -> bool:
    """Whether ``source`` stands for a repository of the hub: owner/name, and nothing here is called so."""
    return _HUB_NAME.fullmatch(source) is not None and not Path(source).exists()


def is_path_below(name: str) -> bool:
    """Whether a hub's name of a file, or of a revision, can be one below a directory here, and nowhere else."""
    return not _NO_NAME.search(name) and all(
        part not in ("", ".", "..") and len(part.encode()) <= _LONGEST_NAME for part in name.split("/")
    )


def check_revision(revision: str | None) -> None:
    """Raise CheckpointError if no hub can have a branch, tag or commit of that name."""
    if revision and not is_path_below(revision):
        raise CheckpointError(
            f"model.revision is {revision[:80]!a}; a branch, tag or commit is needed, such as main"
        )


def hub_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """Where huggingface_hub keeps what it downloaded, by its own rules."""
    if environ.get("HF_HUB_CACHE"):
        return Path(environ["HF_HUB_CACHE"]).expanduser()
    if environ.get("HF_HOME"):
        return Path(environ["HF_HOME"]).expanduser() / "hub"
    home = Path(environ["XDG_CACHE_HOME"]) if environ.get("XDG_CACHE_HOME") else Path.home() / ".cache"
    return home / "huggingface" / "hub"


def is_offline(environ: Mapping[str, str]) -> bool:
    """Whether the user has forbidden to ask the hub."""
    return any(environ.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def is_pulled(model: ModelSpec, cache: Path, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether ``model`` needs no pull: it is no hub name, or all that its weights' index names is in the cache."""
    if not is_hub_name(model.source):
        return True
    try:
        path = resolve_source(model, cache, environ)
    except CheckpointError:
        return False
    index = path / "model.safetensors.index.json"
    try:
        # Reading it properly tells what is wrong with one that is damaged.
        text = index.read_text(encoding="utf-8", errors="replace")
        named = set(re.findall(r'"([^"/]+\.safetensors)"', text))
    except OSError:
        named = set()
    if named:
        whole = all(is_path_below(name) and (path / name).is_file() for name in named)
    else:
        whole = any(path.glob("*.safetensors"))
    return whole and (path / "config.json").is_file()


def _tiny(name: str, cache: Path) -> Path:
    # What makes it takes longer to import than the rest of a short command's checkpoint work.
    from tri_serve.checkpoint.tiny import TINY_FORMATS, tiny_checkpoint

    for fmt in TINY_FORMATS:
        if fmt == name:
            return tiny_checkpoint(fmt, cache)
    raise CheckpointError(
        f"checkpoint {TINY}{name}: there is none; {', '.join(TINY + fmt for fmt in TINY_FORMATS)} are allowed",
        hint=f"{TINY}awq is the default",
    )


def _in_hub_cache(name: str, revision: str | None, hub: Path) -> Path:
    repository = hub / f"models--{name.replace('/', '--')}"
    wanted = revision or "main"
    # A branch or tag is a file that holds the commit; a commit is its own name.
    commit = wanted
    reference = repository / "refs" / wanted
    if reference.is_file():
        commit = reference.read_text(encoding="utf-8", errors="replace").strip()
    snapshot = repository / "snapshots" / commit
    if _COMMIT.fullmatch(commit) and snapshot.is_dir():
        return snapshot
    flag = f" --revision {revision}" if revision else ""
    raise CheckpointError(
        f"model.source is {name}: revision {wanted} is neither a directory here nor in the Hugging Face cache "
        f"({hub})",
        path=repository,
        hint=f"fetch it with `tri-serve checkpoint pull {name}{flag}`, or set model.source to its directory",
    )
