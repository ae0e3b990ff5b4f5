"""Round weights to 4 bits and lay them out as AWQ, GPTQ and compressed-tensors do. numpy only; no randomness.
bitsandbytes' nf4 is in nf4.py.

A linear layer's weight is ``[N, K]`` (outputs, inputs); each group of 128 inputs of one output shares a scale.
Scales are rounded *up* to bfloat16: no weight is then clipped, so dequantised weights are within half a step, and
the number is the same whether the engine keeps scales in bfloat16 or in float16 (which holds it exactly).
Layouts: AutoAWQ's gemm.py, AutoGPTQ's qlinear_cuda.py, compressed-tensors' pack_quantized (pack_to_int32);
the bytes were read back by vLLM 0.32's own unpacking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tri_serve.checkpoint.safetensors import NewTensor
from tri_serve.checkpoint.tiny.nf4 import NF4_CONFIG, pack_nf4

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GROUP = 128
BITS = 4
LEVELS = 15
"""The largest 4-bit number."""
PER_WORD = 8
"""4-bit numbers in one int32."""
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring outputs lies in each nibble of an AWQ word, lowest nibble first: the order in which
its GPU kernel takes pairs apart."""


@dataclass(frozen=True)
class Rounded:
    """A weight in 4 bits. ``codes`` is ``[N, K]`` and ``scales`` and ``zeros`` are ``[N, K / 128]``;
    a weight is ``(code - zero) * scale``."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8]

    def dequantised(self) -> NDArray[np.float32]:
        """``[N, K]``, as the engine will see it."""
        import numpy as np

        outputs, inputs = self.codes.shape
        codes = self.codes.reshape(outputs, -1, GROUP).astype(np.float32)
        values = (codes - self.zeros[..., None].astype(np.float32)) * self.scales[..., None]
        return values.reshape(outputs, inputs)


def round_symmetric(weight: NDArray[np.float32]) -> Rounded:
    """Round to 16 steps around zero (code 8): GPTQ with sym, and compressed-tensors W4A16."""
    import numpy as np

    groups = weight.reshape(weight.shape[0], -1, GROUP)
    scales = _up_to_bfloat16(np.abs(groups).max(axis=-1) * np.float32(2 / LEVELS))
    codes = np.clip(np.rint(groups / scales[..., None]) + 8, 0, LEVELS).astype(np.uint8)
    return Rounded(codes.reshape(weight.shape), scales, np.full(scales.shape, 8, np.uint8))


def round_with_zero(weight: NDArray[np.float32]) -> Rounded:
    """Round to 16 steps from the group's smallest to its largest weight, with a whole-number zero: AWQ."""
    import numpy as np

    groups = weight.reshape(weight.shape[0], -1, GROUP)
    low, high = np.minimum(groups.min(axis=-1), 0), np.maximum(groups.max(axis=-1), 0)
    scales = _up_to_bfloat16((high - low) / np.float32(LEVELS))
    zeros = np.clip(-np.rint(low / scales), 0, LEVELS)
    codes = np.clip(np.rint(groups / scales[..., None]) + zeros[..., None], 0, LEVELS).astype(np.uint8)
    return Rounded(codes.reshape(weight.shape), scales, zeros.astype(np.uint8))


def pack_awq(weight: NDArray[np.float32]) -> dict[str, NewTensor]:
    """AWQ, version gemm: words run along the outputs, in ``AWQ_ORDER``."""
    rounded = round_with_zero(weight)
    return {
        "qweight": _words(_interleaved(rounded.codes.T)),
        "qzeros": _words(_interleaved(rounded.zeros.T)),
        "scales": _float16(rounded.scales.T),
    }


def pack_gptq(weight: NDArray[np.float32]) -> dict[str, NewTensor]:
    """GPTQ, checkpoint format 1: weight words run along the inputs; zeros are stored less one."""
    import numpy as np

    rounded = round_symmetric(weight)
    inputs = weight.shape[1]
    return {
        "qweight": _words(rounded.codes, transposed=True),
        "qzeros": _words((rounded.zeros - 1).T),
        "scales": _float16(rounded.scales.T),
        "g_idx": NewTensor("I32", (inputs,), (np.arange(inputs) // GROUP).astype("<i4").tobytes()),
    }


def pack_compressed_tensors(weight: NDArray[np.float32]) -> dict[str, NewTensor]:
    """compressed-tensors, format pack-quantized, symmetric: words run along the inputs of each output."""
    import numpy as np

    rounded = round_symmetric(weight)
    high = (rounded.scales.astype("<f4").view("<u4") >> 16).astype("<u2")
    return {
        "weight_packed": _words(rounded.codes),
        "weight_scale": NewTensor("BF16", high.shape, high.tobytes()),
        "weight_shape": NewTensor("I64", (2,), np.array(weight.shape, "<i8").tobytes()),
    }


AWQ_CONFIG: dict[str, Any] = {
    "quant_method": "awq",
    "bits": BITS,
    "group_size": GROUP,
    "zero_point": True,
    "version": "gemm",
    "modules_to_not_convert": None,
}
GPTQ_CONFIG: dict[str, Any] = {
    "quant_method": "gptq",
    "bits": BITS,
    "group_size": GROUP,
    "sym": True,
    "desc_act": False,
    "static_groups": False,
    "true_sequential": True,
    "damp_percent": 0.01,
    "lm_head": False,
    "checkpoint_format": "gptq",
}
COMPRESSED_TENSORS_CONFIG: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": BITS,
                "type": "int",
                "symmetric": True,
                "strategy": "group",
                "group_size": GROUP,
                "dynamic": False,
                "actorder": None,
                "block_structure": None,
                "observer": "minmax",
                "observer_kwargs": {},
            },
            "input_activations": None,
            "output_activations": None,
        }
    },
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
    "global_compression_ratio": None,
}

PACKERS: Mapping[str, tuple[Callable[[NDArray[np.float32]], dict[str, NewTensor]], dict[str, Any]]] = {
    "awq": (pack_awq, AWQ_CONFIG),
    "gptq": (pack_gptq, GPTQ_CONFIG),
    "ct": (pack_compressed_tensors, COMPRESSED_TENSORS_CONFIG),
    "bnb4": (pack_nf4, NF4_CONFIG),
}
"""By name: what packs one linear layer, and the ``quantization_config`` that says so."""


def from_bfloat16(data: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A bfloat16 is the upper half of a float32."""
    import numpy as np

    widened = np.frombuffer(data, "<u2").astype(np.uint32) << 16
    return widened.view(np.float32).reshape(shape)


def _up_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The next bfloat16 at or above each positive value. A group of zeros gets 2^-14, float16's smallest normal
    number: any scale does there, and 0 would divide."""
    import numpy as np

    bits = np.maximum(values.astype(np.float32), np.float32(2.0**-14)).view(np.uint32)
    return ((bits + 0xFFFF) & np.uint32(0xFFFF0000)).view(np.float32)


def _interleaved(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = codes.shape
    return codes.reshape(rows, columns // PER_WORD, PER_WORD)[:, :, list(AWQ_ORDER)].reshape(rows, columns)


def _words(codes: NDArray[np.uint8], *, transposed: bool = False) -> NewTensor:
    """Eight neighbouring codes of a row in one int32, the first one lowest; then transposed, if asked for."""
    import numpy as np

    rows, columns = codes.shape
    nibbles = codes.reshape(rows, columns // PER_WORD, PER_WORD).astype(np.uint32)
    shifts = np.arange(PER_WORD, dtype=np.uint32) * np.uint32(BITS)
    words = np.bitwise_or.reduce(nibbles << shifts, axis=-1)
    words = words.T if transposed else words
    return NewTensor("I32", words.shape, np.ascontiguousarray(words).astype("<u4").tobytes())


def _float16(scales: NDArray[np.float32]) -> NewTensor:
    import numpy as np

    return NewTensor("F16", scales.shape, np.ascontiguousarray(scales).astype("<f2").tobytes())
