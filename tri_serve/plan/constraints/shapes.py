"""The linear layers of one decoder layer as one rank of a tensor-parallel engine has them.

vLLM fuses q, k and v into one layer and gate and up into another (model_executor/models/llama.py). Those two are
split by outputs, o_proj and down_proj by inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

from tri_serve.checkpoint.architecture import Architecture
from tri_serve.plan.facts import ModelFacts

VOCABULARY_PADDING = 64
"""vLLM 0.32.0, model_executor/layers/vocab_parallel_embedding.py."""

CPU_MULTIPLE = 32
"""What inputs and outputs must be multiples of for CPUWNA16LinearKernel (vLLM 0.32.0,
model_executor/kernels/linear/mixed_precision/cpu.py)."""


@dataclass(frozen=True)
class RankLayer:
    """A fused linear layer on one rank; sizes count elements."""

    name: str
    inputs: int
    parts: tuple[int, ...]
    """Outputs on this rank of each layer of the checkpoint that it is made of."""
    full_inputs: int
    checkpoint_layers: tuple[str, ...]
    """What it is made of, named within the decoder layer."""

    @property
    def outputs(self) -> int:
        return sum(self.parts)


def rank_layers(architecture: Architecture, tensor_parallel: int) -> tuple[RankLayer, ...]:
    """The four layers, their sizes rounded down where they do not divide."""
    ranks = tensor_parallel
    hidden, wide, head = architecture.hidden_size, architecture.intermediate_size, architecture.head_dim
    query = architecture.num_attention_heads * head
    # With more ranks than key-value heads, each rank has a copy of one.
    key = max(1, architecture.num_key_value_heads // ranks) * head
    qkv = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    return (
        RankLayer("qkv_proj", hidden, (query // ranks, key, key), hidden, qkv),
        RankLayer("o_proj", query // ranks, (hidden,), query, ("self_attn.o_proj",)),
        RankLayer("gate_up_proj", hidden, (wide // ranks,) * 2, hidden, ("mlp.gate_proj", "mlp.up_proj")),
        RankLayer("down_proj", wide // ranks, (hidden,), wide, ("mlp.down_proj",)),
    )


def quantized_layers(model: ModelFacts, tensor_parallel: int) -> tuple[RankLayer, ...]:
    """Those of ``rank_layers`` that are quantised in at least one decoder layer."""
    if model.quantization.method == "none":
        return ()
    return tuple(
        layer
        for layer in rank_layers(model.architecture, tensor_parallel)
        if any(
            not model.quantization.leaves_out(f"model.layers.{index}.{name}")
            for name in layer.checkpoint_layers
            for index in range(model.architecture.num_hidden_layers)
        )
    )


def split_groups(model: ModelFacts, tensor_parallel: int) -> tuple[RankLayer, ...]:
    """Quantised layers whose inputs on one rank are no whole number of groups."""
    group = model.quantization.group_size
    if group is None:
        return ()
    return tuple(layer for layer in quantized_layers(model, tensor_parallel) if layer.inputs % group)


def split_words(model: ModelFacts, tensor_parallel: int) -> tuple[tuple[str, int], ...]:
    """Quantised layers of the checkpoint, with the size on one rank that does not fill whole 32-bit words.

    AWQ packs outputs, GPTQ inputs, and either packs its zero points by outputs; compressed-tensors packs inputs,
    and outputs of its zero points where it has any.
    """
    quantization = model.quantization
    if quantization.method in ("none", "bitsandbytes"):
        return ()
    word = 32 // quantization.bits
    by_outputs = quantization.method != "compressed-tensors" or not quantization.symmetric
    found = []
    for layer in quantized_layers(model, tensor_parallel):
        for name, outputs in zip(layer.checkpoint_layers, layer.parts, strict=True):
            if by_outputs and outputs % word:
                found.append((f"{name} has {outputs:,} outputs", outputs))
            elif quantization.method != "awq" and layer.inputs % word:
                found.append((f"{name} has {layer.inputs:,} inputs", layer.inputs))
    return tuple(found)


def heads_divide(architecture: Architecture, tensor_parallel: int) -> bool:
    return architecture.num_attention_heads % tensor_parallel == 0


def kv_heads_divide(architecture: Architecture, tensor_parallel: int) -> bool:
    heads = architecture.num_key_value_heads
    return heads % tensor_parallel == 0 if heads >= tensor_parallel else tensor_parallel % heads == 0


def sizes_divide(architecture: Architecture, tensor_parallel: int) -> bool:
    """The MLP's width, and the vocabulary as vLLM pads it."""
    vocabulary = -(-architecture.vocab_size // VOCABULARY_PADDING) * VOCABULARY_PADDING
    return architecture.intermediate_size % tensor_parallel == 0 and vocabulary % tensor_parallel == 0


def splits(model: ModelFacts, tensor_parallel: int) -> bool:
    """Whether the model can be spread over so many ranks."""
    architecture = model.architecture
    return (
        heads_divide(architecture, tensor_parallel)
        and kv_heads_divide(architecture, tensor_parallel)
        and sizes_divide(architecture, tensor_parallel)
        and not split_groups(model, tensor_parallel)
        and not split_words(model, tensor_parallel)
    )


def nearest_split(model: ModelFacts, tensor_parallel: int, at_most: int | None = None) -> int | None:
    """The largest tensor-parallel size below that the model can be spread over; None if it cannot at all."""
    most = tensor_parallel - 1 if at_most is None else min(at_most, tensor_parallel - 1)
    return next((ranks for ranks in range(most, 0, -1) if splits(model, ranks)), None)
