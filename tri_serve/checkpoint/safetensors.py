"""The safetensors format without its library: read headers strictly, write files whose bytes never vary.

A file is eight bytes (little-endian length of the header), the header (JSON: tensor name → dtype, shape, byte
range) and the tensors' bytes. https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tri_serve.errors import CheckpointError

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip
"""Bits of one element, by dtype."""

MAX_HEADER_BYTES = 100_000_000
"""The library's own bound: a longer header is an attack or noise, not a model."""

_MOST_DIMENSIONS = 64
_MOST = 2**63 - 1
"""Of a dimension, an offset: no file is larger, and products of larger numbers would keep us busy."""


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies. ``begin`` and ``end`` are bytes from the start of ``file``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """What it takes on disk, and in memory as it is."""
        return self.end - self.begin

    def read(self) -> bytes:
        """Its bytes, row by row, little-endian."""
        with self.file.open("rb") as stream:
            stream.seek(self.begin)
            return stream.read(self.nbytes)


@dataclass(frozen=True)
class NewTensor:
    """A tensor to write: ``data`` is its bytes, row by row, little-endian."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def read_header(file: Path) -> dict[str, Tensor]:
    """Every tensor of ``file`` by name, in the order of the header.

    Raises CheckpointError if the file is shorter or longer than its header says, if a tensor's bytes lie outside
    it, overlap, leave a gap or disagree with dtype and shape, or if the header is no such header.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8:
                _refuse(file, f"it has {size} bytes, too few for a header")
            if length > MAX_HEADER_BYTES:
                _refuse(
                    file, f"it claims a header of {length:,} bytes; at most {MAX_HEADER_BYTES:,} are allowed"
                )
            if 8 + length > size:
                _refuse(
                    file, f"its header needs {8 + length:,} bytes, and the file has {size:,}: it is truncated"
                )
            raw = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}", path=file) from error
    return _tensors(file, _parse(file, raw), 8 + length, size)


def write_file(file: Path, tensors: Mapping[str, NewTensor]) -> None:
    """Write ``tensors`` as the library does: widest elements first, then by name. Same input, same bytes."""
    order = sorted(tensors, key=lambda name: (-BITS[tensors[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in order:
        tensor = tensors[name]
        end = offset + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    # Spaces up to a multiple of eight keep every tensor aligned.
    encoded += b" " * (-len(encoded) % 8)
    with file.open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        stream.writelines(tensors[name].data for name in order)


def _parse(file: Path, raw: bytes) -> dict[str, Any]:
    def unique(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                _refuse(file, f"its header names {key!r} twice")
            found[key] = value
        return found

    try:
        header = json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        _refuse(file, "its header is not JSON")
    if not isinstance(header, dict):
        _refuse(file, "its header is not a JSON object")
    header.pop("__metadata__", None)
    return header


def _tensors(file: Path, header: dict[str, Any], start: int, size: int) -> dict[str, Tensor]:
    tensors = {name: _tensor(file, name, entry, start) for name, entry in header.items()}
    position = start
    for tensor in sorted(tensors.values(), key=lambda t: (t.begin, t.end)):
        if tensor.end > size:
            _refuse(
                file, f"{tensor.name} ends at byte {tensor.end:,}, and the file has {size:,}: it is truncated"
            )
        if tensor.begin < position:
            _refuse(file, f"{tensor.name} overlaps what lies before it")
        if tensor.begin > position:
            _refuse(file, f"{tensor.begin - position:,} bytes before {tensor.name} belong to no tensor")
        position = tensor.end
    if position != size:
        _refuse(file, f"{size - position:,} bytes at its end belong to no tensor")
    return tensors


def _tensor(file: Path, name: str, entry: Any, start: int) -> Tensor:
    if not name.isprintable():
        _refuse(file, f"its header names a tensor {ascii(name)[:100]}")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        _refuse(file, f"{name} needs dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        _refuse(file, f"{name} has dtype {dtype!r}; known are {', '.join(BITS)}")
    possible = _naturals(shape) and _naturals(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]
    if not possible or len(shape) > _MOST_DIMENSIONS:
        _refuse(
            file,
            f"{name} has an impossible shape or byte range: {str(shape)[:100]}, {str(offsets)[:100]}",
        )
    needed = math.prod(shape) * BITS[dtype] // 8
    if offsets[1] - offsets[0] != needed:
        _refuse(
            file, f"{name} is {dtype} {shape}, which is {needed:,} bytes, and has {offsets[1] - offsets[0]:,}"
        )
    return Tensor(name, dtype, tuple(shape), file, start + offsets[0], start + offsets[1])


def _naturals(value: Any) -> bool:
    # bool is an int in Python; JSON's true is no size.
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= _MOST for item in value)


def _refuse(file: Path, what: str) -> NoReturn:
    raise CheckpointError(
        f"{file}: not a whole safetensors file: {what}",
        path=file,
        hint="copy or download the file again and compare its size or checksum with the original",
    )
