"""Round weights to bitsandbytes' nf4 with double quantisation, as transformers saves it. numpy only; no randomness.

The weight is one row of numbers, cut into blocks of 64; each is divided by its largest magnitude and becomes the
nearest of 16 levels (quantiles of a normal distribution). The largest magnitudes, less their mean, are rounded in
turn, in blocks of 256, to the nearest of 256 levels whose steps grow with size. Checked against bitsandbytes 0.50.2
on a CPU: every byte the same, but for half a percent of the second roundings, where its table takes the next level.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tri_serve.checkpoint.safetensors import NewTensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK = 64
NESTED_BLOCK = 256
_EXPONENTS = 7

LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""nf4 (bitsandbytes 0.50, backends/utils.py; Dettmers et al., QLoRA, appendix E)."""

NF4_CONFIG: dict[str, Any] = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "load_in_8bit": False,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "llm_int8_enable_fp32_cpu_offload": False,
    "llm_int8_has_fp16_weight": False,
    "llm_int8_skip_modules": ["lm_head"],
    "llm_int8_threshold": 6.0,
}


def pack_nf4(weight: NDArray[np.float32]) -> dict[str, NewTensor]:
    """The tensors of one linear layer whose weight is ``[N, K]``; N·K is a multiple of 64."""
    import numpy as np

    blocks = weight.astype(np.float32).reshape(-1, BLOCK)
    scales = np.abs(blocks).max(axis=-1)
    shares = blocks * (np.float32(1) / np.maximum(scales, np.float32(1e-38)))[:, None]
    codes = _nearest(np.clip(shares, -1, 1).reshape(-1), np.array(LEVELS, np.float32))
    mean = np.float32(scales.mean(dtype=np.float64))
    nested_levels = dynamic_levels()
    nested, nested_scales = _round_blocks(scales - mean, nested_levels)
    state = {
        "quant_type": "nf4",
        "blocksize": BLOCK,
        "dtype": "bfloat16",
        "shape": list(weight.shape),
        "nested_blocksize": NESTED_BLOCK,
        "nested_dtype": "float32",
        "nested_offset": float(mean),
    }
    return {
        # The first of two neighbours lies in the upper half of the byte.
        "weight": _tensor("U8", ((codes[::2] << 4) | codes[1::2]).reshape(-1, 1)),
        "weight.absmax": _tensor("U8", nested),
        "weight.quant_map": _tensor("F32", np.array(LEVELS, "<f4")),
        "weight.nested_absmax": _tensor("F32", nested_scales),
        "weight.nested_quant_map": _tensor("F32", nested_levels),
        "weight.quant_state.bitsandbytes__nf4": _tensor(
            "U8", np.frombuffer(json.dumps(state).encode(), np.uint8)
        ),
    }


def unpack_nf4(tensors: dict[str, NewTensor]) -> NDArray[np.float32]:
    """The weight ``[N, K]`` that the engine computes with."""
    import numpy as np

    def read(name: str, kind: str) -> NDArray[Any]:
        tensor = tensors[name]
        return np.frombuffer(tensor.data, kind).reshape(tensor.shape)

    state = json.loads(bytes(tensors["weight.quant_state.bitsandbytes__nf4"].data))
    levels = read("weight.nested_quant_map", "<f4")
    nested = levels[read("weight.absmax", "u1")]
    scales = nested * np.repeat(read("weight.nested_absmax", "<f4"), NESTED_BLOCK)[: nested.size]
    packed = read("weight", "u1").reshape(-1)
    codes = np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1, BLOCK)
    values = read("weight.quant_map", "<f4")[codes] * (scales + np.float32(state["nested_offset"]))[:, None]
    weight: NDArray[np.float32] = values.astype(np.float32).reshape(state["shape"])
    return weight


def dynamic_levels() -> NDArray[np.float32]:
    """256 levels from -0.99 to 1 (bitsandbytes 0.50, functional.py, create_dynamic_map): seven decades, each with
    twice as many as the one below it."""
    import numpy as np

    found = [0.0, 1.0]
    for exponent in range(_EXPONENTS):
        bounds = _linspace(2**exponent)
        middles = ((bounds[:-1] + bounds[1:]) / np.float32(2)).astype(np.float32)
        magnitudes = (np.float32(10.0 ** (exponent - _EXPONENTS + 1)) * middles).astype(np.float32)
        found += [*map(float, magnitudes), *map(float, -magnitudes)]
    return np.array(sorted(found), dtype=np.float32)


def _linspace(steps: int) -> NDArray[np.float32]:
    """From 0.1 to 1, as torch counts in float32: from the nearer end, each number rounded once."""
    import numpy as np

    step = float(np.float32(0.9) / np.float32(steps))
    numbers = np.arange(steps + 1)
    low = float(np.float32(0.1)) + step * numbers
    high = 1.0 - step * (steps - numbers)
    return np.where(numbers < (steps + 1) // 2, low, high).astype(np.float32)


def _round_blocks(
    values: NDArray[np.float32], levels: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes of ``values``, and the largest magnitude of each 256 of them."""
    import numpy as np

    padded = np.zeros(-(-values.size // NESTED_BLOCK) * NESTED_BLOCK, np.float32)
    padded[: values.size] = values
    blocks = padded.reshape(-1, NESTED_BLOCK)
    largest = np.abs(blocks).max(axis=-1)
    shares = blocks / np.maximum(largest, np.float32(1e-38))[:, None]
    return _nearest(shares.reshape(-1)[: values.size], levels), largest


def _nearest(values: NDArray[np.float32], levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """For each value the number of the level that is nearest; of two equally near ones the lower."""
    import numpy as np

    bounds = ((levels[:-1] + levels[1:]) / np.float32(2)).astype(np.float32)
    return np.searchsorted(bounds, values, side="left").astype(np.uint8)


def _tensor(dtype: str, array: NDArray[Any]) -> NewTensor:
    import numpy as np

    kind = {"U8": "u1", "F32": "<f4"}[dtype]
    return NewTensor(dtype, array.shape, np.ascontiguousarray(array).astype(kind).tobytes())
