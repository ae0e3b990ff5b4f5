"""What a checkpoint on the hub is, told by its config.json before the rest of it is fetched."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tri_serve.checkpoint.config_file import CONFIG, MOST_BYTES, read_json_object
from tri_serve.checkpoint.hub import Hub
from tri_serve.checkpoint.pull import look_up_wanted
from tri_serve.errors import CheckpointError
from tri_serve.spec.engine import ModelSpec


@dataclass(frozen=True)
class Ahead:
    """A checkpoint that is going to be fetched."""

    config: Mapping[str, Any]
    """What its config.json says."""
    where: Path
    """That file, for errors: ``owner/name/config.json``."""
    folder: Path
    """Where in the cache it goes."""
    missing: int
    """Bytes that are to be fetched."""


def look_ahead(
    model: ModelSpec,
    *,
    environ: Mapping[str, str] = os.environ,
    pause: Callable[[float], None] = time.sleep,
) -> Ahead:
    """Fetch config.json of ``model`` into the Hugging Face cache, where ``pull`` finds it.

    Raises as ``pull`` does; whether the disk is large enough is not looked at.
    """
    wanted = look_up_wanted(model, environ, pause)
    config = next((file for file in wanted.files if file.name == CONFIG), None)
    if config is None:
        raise CheckpointError(f"{model.source} has no {CONFIG}: that is no checkpoint of transformers")
    if config.size > MOST_BYTES:
        raise CheckpointError(
            f"{model.source}: its {CONFIG} has {config.size:,} bytes; at most {MOST_BYTES:,} are read",
            hint="that is no configuration: look for another repository of the same model",
        )
    download = next(download for download in wanted.downloads if download.file.blob == config.blob)
    download.run(Hub(environ, pause=pause), threading.Event())
    return Ahead(
        config=read_json_object(wanted.repository / "blobs" / config.blob),
        where=Path(model.source) / CONFIG,
        folder=wanted.repository,
        missing=wanted.missing,
    )
