"""Which tensors a Llama checkpoint must have, in which shape, for each way of storing weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tri_serve.checkpoint.architecture import Architecture
from tri_serve.checkpoint.quantization import QuantizationFacts
from tri_serve.checkpoint.safetensors import BITS

Kind = Literal["embedding", "linear_quantized", "linear", "norm", "lm_head"]

STORAGE = {"uint8": "U8", "bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""bitsandbytes' names of the types that 4-bit weights may be stored as."""

FLOATS = frozenset({"BF16", "F16", "F32"})
WORDS = frozenset({"I32"})


@dataclass(frozen=True)
class Expected:
    """One tensor that belongs to the model. ``shape`` none: any (its size is not fixed by config.json)."""

    kind: Kind
    shape: tuple[int, ...] | None
    dtypes: frozenset[str]
    required: bool = True


def expected_tensors(architecture: Architecture, quantization: QuantizationFacts) -> dict[str, Expected]:
    """Every tensor that the checkpoint may have, by name."""
    hidden, vocabulary = architecture.hidden_size, architecture.vocab_size
    tensors = {
        "model.embed_tokens.weight": Expected("embedding", (vocabulary, hidden), FLOATS),
        "model.norm.weight": Expected("norm", (hidden,), FLOATS),
        # A tied head may be stored again, and then is not read.
        "lm_head.weight": Expected(
            "lm_head", (vocabulary, hidden), FLOATS, required=not architecture.tie_word_embeddings
        ),
    }
    for index in range(architecture.num_hidden_layers):
        layer = f"model.layers.{index}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}.{norm}.weight"] = Expected("norm", (hidden,), FLOATS)
        # Old exporters wrote this buffer; engines compute it.
        tensors[f"{layer}.self_attn.rotary_emb.inv_freq"] = Expected("norm", None, FLOATS, required=False)
        for name, (outputs, inputs) in architecture.linear_shapes().items():
            linear = f"{layer}.{name}"
            tensors |= {
                f"{linear}.{part}": tensor for part, tensor in _linear(linear, outputs, inputs, quantization)
            }
    return tensors


def _linear(
    name: str, outputs: int, inputs: int, quantization: QuantizationFacts
) -> Iterator[tuple[str, Expected]]:
    """The tensors of one linear layer, by the last part of their name."""
    yield "bias", Expected("linear", (outputs,), FLOATS, required=False)
    if quantization.method == "none" or quantization.leaves_out(name):
        yield "weight", Expected("linear", (outputs, inputs), FLOATS)
        return
    per_word = 32 // quantization.bits
    groups = -(-inputs // (quantization.group_size or inputs))

    def quantized(shape: tuple[int, ...] | None, dtypes: frozenset[str], required: bool = True) -> Expected:
        return Expected("linear_quantized", shape, dtypes, required)

    if quantization.method == "awq":
        yield "qweight", quantized((inputs, outputs // per_word), WORDS)
        yield "qzeros", quantized((groups, outputs // per_word), WORDS)
        yield "scales", quantized((groups, outputs), FLOATS)
    elif quantization.method == "gptq":
        yield "qweight", quantized((inputs // per_word, outputs), WORDS)
        yield "qzeros", quantized((groups, outputs // per_word), WORDS)
        yield "scales", quantized((groups, outputs), FLOATS)
        yield "g_idx", quantized((inputs,), WORDS, required=quantization.act_order)
    elif quantization.method == "compressed-tensors":
        yield "weight_packed", quantized((outputs, -(-inputs // per_word)), WORDS)
        yield "weight_scale", quantized((outputs, groups), FLOATS)
        yield "weight_shape", quantized((2,), frozenset({"I64", "I32"}))
        yield (
            "weight_zero_point",
            quantized((-(-outputs // per_word), groups), WORDS, required=not quantization.symmetric),
        )
        yield "weight_g_idx", quantized((inputs,), WORDS, required=quantization.act_order)
    else:
        yield from _bitsandbytes(outputs, inputs, quantization)


def _bitsandbytes(
    outputs: int, inputs: int, quantization: QuantizationFacts
) -> Iterator[tuple[str, Expected]]:
    """4 bits: a column of bytes, two weights each, and statistics whose names carry the type (nf4 or fp4)."""

    def quantized(shape: tuple[int, ...] | None, dtypes: set[str], required: bool = False) -> Expected:
        return Expected("linear_quantized", shape, frozenset(dtypes), required)

    if quantization.bits == 8:
        yield "weight", quantized((outputs, inputs), {"I8"}, required=True)
        yield "SCB", quantized((outputs,), {"F32"}, required=True)
        yield "weight_format", quantized(None, {"U8"})
        return
    stored = STORAGE.get(quantization.storage)
    column = (-(-outputs * inputs // 2) * 8 // BITS[stored], 1) if stored else None
    yield "weight", quantized(column, {stored} if stored else set(STORAGE.values()), required=True)
    for statistic in ("absmax", "nested_absmax", "nested_quant_map", "quant_map"):
        yield f"weight.{statistic}", quantized(None, {"U8", "F32"})
    yield f"weight.quant_state.bitsandbytes__{quantization.layout}", quantized(None, {"U8"})
