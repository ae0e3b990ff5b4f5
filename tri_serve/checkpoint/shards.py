"""The safetensors files of a checkpoint: one, or many with an index."""

from __future__ import annotations

from pathlib import Path

from tri_serve.checkpoint.config_file import read_json_object
from tri_serve.checkpoint.safetensors import Tensor, read_header
from tri_serve.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

COPY_HINT = "copy or download the checkpoint again, and check that it is complete"


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of the checkpoint, by name; only headers are read.

    Raises CheckpointError if a file is missing or damaged, or if index and files disagree.
    """
    if (directory / INDEX).is_file():
        return _sharded(directory)
    if (directory / SINGLE).is_file():
        return read_header(directory / SINGLE)
    others = sorted(file.name for pattern in ("*.bin", "*.gguf", "*.pt") for file in directory.glob(pattern))
    found = f"; it has {', '.join(others[:3])}, which tri-serve does not read" if others else ""
    raise CheckpointError(
        f"{directory}: no weights: {SINGLE} or {INDEX} is needed{found}",
        path=directory,
        hint="convert the checkpoint to safetensors (save_pretrained does)" if others else COPY_HINT,
    )


def _sharded(directory: Path) -> dict[str, Tensor]:
    index = directory / INDEX
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{index}: weight_map is needed: tensor name to file name", path=index, hint=COPY_HINT
        )
    for name, file in weight_map.items():
        # A name with a folder in it could point anywhere on this machine.
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(
                f"{index}: {name} lies in {file!r}; a plain file name is needed", path=index
            )
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (directory / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"{directory}: {len(missing)} of {len(shards)} weight files are missing: {_some(missing)}",
            path=directory / missing[0],
            hint=COPY_HINT,
        )
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        for name, tensor in read_header(directory / shard).items():
            if weight_map.get(name) != shard:
                raise CheckpointError(
                    f"{index}: {name} is in {shard}, and the index says {weight_map.get(name, 'nothing of it')}",
                    path=index,
                    hint=COPY_HINT,
                )
            tensors[name] = tensor
    absent = sorted(set(weight_map) - set(tensors))
    if absent:
        raise CheckpointError(
            f"{directory}: the index names tensors that no file has: {_some(absent)}",
            path=directory,
            hint=COPY_HINT,
        )
    return tensors


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
