"""The tensors of a checkpoint that is not there: of what type, shape and size, for each way of storing weights.

What ``layout`` says that a checkpoint may have, narrowed to what the tools write: AutoAWQ (gemm), AutoGPTQ and
GPTQModel, compressed-tensors (pack-quantized), bitsandbytes through transformers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tri_serve.checkpoint.architecture import Architecture, architecture_from
from tri_serve.checkpoint.config_file import CONFIG
from tri_serve.checkpoint.layout import FLOATS, Expected, Kind, expected_tensors
from tri_serve.checkpoint.quantization import QuantizationFacts, quantization_from
from tri_serve.checkpoint.safetensors import BITS
from tri_serve.checkpoint.shards import INDEX

NF4_BLOCK = 64
"""Weights that share a scale: bitsandbytes' default, and the only size that transformers asks for."""
NESTED_BLOCK = 256
"""Scales that share a scale of their own, if they are rounded too (bitsandbytes/functional.py, quantize_4bit)."""

_FLOAT_NAMES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_SHARD_BYTES = 5 * 10**9
"""What huggingface's tools split at by default."""
_OFFSET = 0.03527599573135376
"""The mean of a tensor's scales, which bitsandbytes writes as decimal text: the one size that depends on the
weights. This one has as many digits as most; others make the tensor a few bytes longer or shorter."""


@dataclass(frozen=True, slots=True)
class TensorSize:
    """One tensor of a checkpoint."""

    kind: Kind
    dtype: str
    """As safetensors names it: BF16, I32, U8, …"""
    shape: tuple[int, ...]
    nbytes: int


def tensor_sizes(architecture: Architecture, quantization: QuantizationFacts) -> dict[str, TensorSize]:
    """Every tensor that a checkpoint of that architecture has when its weights are stored so, by name.

    Exact, but for bitsandbytes' ``quant_state`` tensors, some 170 bytes each, whose length varies by a few.
    """
    sizes = {}
    for name, tensor in expected_tensors(architecture, quantization).items():
        shape = _shape(name, tensor, architecture, quantization)
        if shape is not None:
            dtype = _dtype(name, tensor, architecture, quantization)
            sizes[name] = TensorSize(tensor.kind, dtype, shape, math.prod(shape) * BITS[dtype] // 8)
    return sizes


def write_header(file: Path, sizes: Mapping[str, TensorSize]) -> None:
    """Write a safetensors file with these tensors whose data is a hole: of full size, and nothing on disk."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, size in sizes.items():
        header[name] = {
            "dtype": size.dtype,
            "shape": list(size.shape),
            "data_offsets": [offset, offset + size.nbytes],
        }
        offset += size.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with file.open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        stream.truncate(8 + len(encoded) + offset)


def write_hollow_checkpoint(directory: Path, config: Mapping[str, Any]) -> None:
    """Make ``directory`` a checkpoint as ``config`` (config.json) describes it, in shards whose data are holes.

    It can be inspected and planned, in seconds and without disk space; its weights are zeros and its tokenizer is
    empty. Raises CheckpointError if ``config`` is wrong.
    """
    where = directory / CONFIG
    sizes = tensor_sizes(architecture_from(config, where), quantization_from(config, where))
    shards: list[dict[str, TensorSize]] = [{}]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size.nbytes > _SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = size
        filled += size.nbytes
    directory.mkdir(parents=True)
    where.write_text(json.dumps(dict(config), indent=2), encoding="utf-8")
    (directory / "tokenizer.json").write_text("{}", encoding="utf-8")
    weight_map: dict[str, str] = {}
    for index, shard in enumerate(shards, 1):
        file = f"model-{index:05}-of-{len(shards):05}.safetensors"
        write_header(directory / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    index_file = {"metadata": {"total_size": sum(s.nbytes for s in sizes.values())}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index_file), encoding="utf-8")


def _shape(
    name: str, tensor: Expected, architecture: Architecture, quantization: QuantizationFacts
) -> tuple[int, ...] | None:
    """Its shape if tools write it; none if they do not."""
    linear, _, part = name.rpartition(".")
    if part == "bias":
        in_layer = linear.split(".", 3)[3]
        return tensor.shape if in_layer in architecture.biases else None
    if part == "g_idx" or tensor.required:
        # GPTQ's tools write g_idx even where it says nothing.
        return tensor.shape
    if quantization.method == "bitsandbytes" and tensor.kind == "linear_quantized":
        return _statistic(name, architecture, quantization)
    return None


def _statistic(
    name: str, architecture: Architecture, quantization: QuantizationFacts
) -> tuple[int, ...] | None:
    """What bitsandbytes keeps beside a weight (bitsandbytes/functional.py, QuantState.as_dict)."""
    linear, _, statistic = name.partition(".weight")
    outputs, inputs = architecture.linear_shapes()[linear.split(".", 3)[3]]
    blocks = -(-outputs * inputs // NF4_BLOCK)
    nested = quantization.double_quant
    state: dict[str, Any] = {
        "quant_type": quantization.layout,
        "blocksize": NF4_BLOCK,
        "dtype": architecture.torch_dtype,
        "shape": [outputs, inputs],
    }
    if nested:
        state |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": _OFFSET}
    shapes: dict[str, tuple[int, ...] | None] = {
        "_format": (),
        ".absmax": (blocks,),
        ".quant_map": (16,),
        ".nested_absmax": (-(-blocks // NESTED_BLOCK),) if nested else None,
        ".nested_quant_map": (256,) if nested else None,
    }
    return shapes.get(statistic, (len(json.dumps(state)),))


def _dtype(name: str, tensor: Expected, architecture: Architecture, quantization: QuantizationFacts) -> str:
    """Which of the types that the tensor may have the tools write."""
    part = name.rpartition(".")[2]
    if tensor.dtypes == FLOATS:
        # AutoAWQ and AutoGPTQ write scales in float16 whatever the model's own type is.
        return "F16" if part == "scales" else _FLOAT_NAMES.get(architecture.torch_dtype, "F32")
    if part == "absmax":
        return "U8" if quantization.double_quant else "F32"
    if part in ("quant_map", "nested_quant_map", "nested_absmax"):
        return "F32"
    if part == "weight_shape":
        return "I64"
    return "U8" if len(tensor.dtypes) > 1 else next(iter(tensor.dtypes))
