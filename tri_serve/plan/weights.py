"""Bytes of weights on each device of an engine: as vLLM loads them, and as its kernels keep them.

Follows vLLM 0.32: ``model_executor/models/llama.py`` for what is merged, ``layers/linear.py`` and
``layers/vocab_parallel_embedding.py`` for what is split over a tensor-parallel group and what every rank has whole,
and ``layers/quantization`` for the parameters of each way of storing weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tri_serve.checkpoint.architecture import Architecture
from tri_serve.checkpoint.quantization import QuantizationFacts
from tri_serve.checkpoint.sizes import NF4_BLOCK
from tri_serve.plan.facts import ModelFacts

VOCABULARY_PADDING = 64
"""Rows of embedding and lm_head are filled up to a multiple of this (vocab_parallel_embedding.py)."""

BFLOAT16_SINCE = (8, 0)
"""Compute capability of the first GPUs that compute in bfloat16 (platforms/cuda.py)."""

ELEMENT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

_WORD = 4
_MACHETE_GROUPS = (None, 64, 128)
_MACHETE_BLOCK = (64, 128)
"""Inputs and outputs that Machete's layers are multiples of (quantization/utils/machete_utils.py)."""


@dataclass(frozen=True)
class RankLinear:
    """What one rank has of a linear layer, or of several that vLLM merges into one."""

    names: tuple[str, ...]
    """Within a decoder layer, as in the checkpoint."""
    outputs: int
    inputs: int
    whole_inputs: int
    """Inputs of all ranks together: more than ``inputs`` where the layer is split along them."""

    @property
    def split_inputs(self) -> bool:
        return self.inputs != self.whole_inputs


def engine_dtype(
    dtype: str, architecture: Architecture, compute_capability: tuple[int, int] | None = None
) -> str:
    """What ``--dtype`` comes to on a GPU of that compute capability (none: on the CPU).

    vLLM's ``auto`` (0.32, config/model.py, _resolve_auto_dtype) takes the checkpoint's own type where the device
    has it, and for float32 the first that the device has: bfloat16, and float16 on GPUs before compute capability
    8.0 (platforms/cuda.py and cpu.py, supported_dtypes). Both are of two bytes: sizes do not depend on the device.
    """
    if dtype != "auto":
        return dtype
    first = "bfloat16" if compute_capability is None or compute_capability >= BFLOAT16_SINCE else "float16"
    return "float16" if architecture.torch_dtype == "float16" else first


def rank_kv_heads(architecture: Architecture, tensor_parallel: int) -> int:
    """Key-value heads of each rank: a share of them, or one that others have too where there are fewer of them."""
    return max(1, architecture.num_key_value_heads // tensor_parallel)


def padded_vocabulary(architecture: Architecture) -> int:
    """Rows of embedding and lm_head on all ranks together."""
    return -(-architecture.vocab_size // VOCABULARY_PADDING) * VOCABULARY_PADDING


def rank_linears(architecture: Architecture, tensor_parallel: int) -> tuple[RankLinear, ...]:
    """The linear layers of one decoder layer on one rank, merged as vLLM merges them."""
    hidden, head = architecture.hidden_size, architecture.head_dim
    query = architecture.num_attention_heads * head
    wide = architecture.intermediate_size
    heads = architecture.num_attention_heads // tensor_parallel
    qkv = (heads + 2 * rank_kv_heads(architecture, tensor_parallel)) * head
    attention = tuple(f"self_attn.{name}_proj" for name in "qkv")
    return (
        RankLinear(attention, qkv, hidden, hidden),
        RankLinear(("self_attn.o_proj",), hidden, query // tensor_parallel, query),
        RankLinear(("mlp.gate_proj", "mlp.up_proj"), 2 * (wide // tensor_parallel), hidden, hidden),
        RankLinear(("mlp.down_proj",), hidden, wide // tensor_parallel, wide),
    )


@dataclass(frozen=True)
class RankWeights:
    """Bytes of weights on one rank."""

    linears: int
    tables: int
    """Embedding and lm_head, split along the padded vocabulary."""
    norms: int
    """Every rank has all of them."""

    @property
    def total(self) -> int:
        return self.linears + self.tables + self.norms


def loaded_parameter_bytes(model: ModelFacts, tensor_parallel: int = 1, *, dtype: str = "bfloat16") -> int:
    """Bytes of the parameters that one rank holds when weights are loaded, before kernels repack them.

    They differ from the checkpoint's: the vocabulary is padded, what is not quantised is kept in ``dtype`` (as
    ``--dtype`` takes it), g_idx is dropped, the shapes of merged layers are kept once, and compressed-tensors gives
    each attention layer six scales for an fp8 KV cache, used or not. Scales that bitsandbytes keeps beside a
    parameter are no parameters.
    """
    return _loaded_weights(model, tensor_parallel, dtype).total


def rank_weights(
    model: ModelFacts,
    tensor_parallel: int = 1,
    *,
    dtype: str = "bfloat16",
    compute_capability: tuple[int, int] | None = None,
) -> RankWeights:
    """Bytes of weights that one rank keeps while it serves: what the kernels of that device make of them.

    As loaded, but for: GPTQ's zero points, which Marlin drops and Machete (compute capability 9.0) leaves; AWQ's,
    which Machete unpacks into ``dtype``; and bitsandbytes' scales, which are unrounded into float32 and kept beside
    the weights.
    """
    element = ELEMENT_BYTES[engine_dtype(dtype, model.architecture)]
    changes = sum(
        _repacked(linear, model.quantization, element, compute_capability)
        for linear, quantized in _linears(model, tensor_parallel)
        if quantized
    )
    loaded = _loaded_weights(model, tensor_parallel, dtype)
    return replace(loaded, linears=loaded.linears + changes)


def _loaded_weights(model: ModelFacts, tensor_parallel: int, dtype: str) -> RankWeights:
    architecture = model.architecture
    element = ELEMENT_BYTES[engine_dtype(dtype, architecture)]
    linears = sum(
        _loaded(linear, model.quantization, element, quantized=quantized)
        + _biases(linear, architecture, element)
        for linear, quantized in _linears(model, tensor_parallel)
    )
    if model.quantization.method == "compressed-tensors":
        # Three scales in float32 and three zero points (compressed_tensors.py, CompressedTensorsKVCacheMethod).
        linears += architecture.num_hidden_layers * (3 * 4 + 3 * element)
    rows = padded_vocabulary(architecture) // tensor_parallel
    tables = 1 if architecture.tie_word_embeddings else 2
    norms = 2 * architecture.num_hidden_layers + 1
    row_bytes = architecture.hidden_size * element
    return RankWeights(linears, tables=tables * rows * row_bytes, norms=norms * row_bytes)


def _linears(model: ModelFacts, tensor_parallel: int) -> Iterator[tuple[RankLinear, bool]]:
    """Every linear layer of the model on one rank, and whether its weights are quantised."""
    quantization = model.quantization
    linears = rank_linears(model.architecture, tensor_parallel)
    for index in range(model.architecture.num_hidden_layers):
        for linear in linears:
            kept = quantization.leaves_out(f"model.layers.{index}.{linear.names[0]}")
            yield linear, quantization.method != "none" and not kept


def _biases(linear: RankLinear, architecture: Architecture, element: int) -> int:
    return linear.outputs * element if linear.names[0] in architecture.biases else 0


def _groups(linear: RankLinear, quantization: QuantizationFacts) -> int:
    """Scales of one output. One scale for all inputs is on every rank, however the inputs are split."""
    if quantization.group_size is None:
        return 1
    return linear.inputs // quantization.group_size


def _loaded(linear: RankLinear, quantization: QuantizationFacts, element: int, *, quantized: bool) -> int:
    weights = linear.outputs * linear.inputs
    if not quantized:
        return weights * element
    if quantization.method == "bitsandbytes":
        return weights * quantization.bits // 8
    per_word = 32 // quantization.bits
    groups = _groups(linear, quantization)
    scales = groups * linear.outputs * element
    zeros = groups * -(-linear.outputs // per_word) * _WORD
    if quantization.method == "compressed-tensors":
        shape = 2 * 8
        packed = linear.outputs * -(-linear.inputs // per_word) * _WORD
        return packed + scales + shape + (0 if quantization.symmetric else zeros)
    return weights // per_word * _WORD + scales + zeros


def _repacked(
    linear: RankLinear, quantization: QuantizationFacts, element: int, capability: tuple[int, int] | None
) -> int:
    """Bytes that repacking adds to a quantised layer; negative: takes from it."""
    per_word = 32 // quantization.bits
    zeros = _groups(linear, quantization) * (linear.outputs // per_word) * _WORD
    machete = (
        capability == (9, 0)
        and quantization.group_size in _MACHETE_GROUPS
        and linear.inputs % _MACHETE_BLOCK[0] == 0
        and linear.outputs % _MACHETE_BLOCK[1] == 0
    )
    if quantization.method == "gptq":
        # kernels/linear/mixed_precision/marlin.py
        return 0 if machete or capability is None else -zeros
    if machete and (quantization.method == "awq" or not quantization.symmetric):
        # kernels/linear/mixed_precision/machete.py: scale times zero point, in the activations' type.
        return _groups(linear, quantization) * linear.outputs * element - zeros
    if quantization.method == "bitsandbytes":
        # vllm-bnb-plugin 0.0.3, bitsandbytes_loader.py, _dequantize_dq.
        scales = linear.outputs if quantization.bits == 8 else -(-linear.outputs * linear.inputs // NF4_BLOCK)
        return scales * 4
    return 0
