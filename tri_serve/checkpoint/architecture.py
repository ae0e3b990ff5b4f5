"""The architecture: what ``config.json`` says of the model's shape, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tri_serve.checkpoint.config_file import CONFIG, Values, read_config
from tri_serve.errors import CheckpointError

LLAMA = "LlamaForCausalLM"
TRILLION = "TrillionForCausalLM"
"""What Trillion Labs' own code, which comes with some of its checkpoints, calls the model."""

_STRETCHED_ALREADY = frozenset(
    {"default", "su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"}
)
"""Types of RoPE whose factor vLLM 0.32 does not multiply the context by; older ones multiplied yarn's original
context, which gives the same number where config.json is right."""

MOST_LAYERS = 10_000
"""Far above any model (the deepest have some 130); a wrong number must not fill memory with tensor names."""

MOST_CONTEXT = 2**31 - 1
"""Tokens; positions are 32-bit numbers in many kernels."""


@dataclass(frozen=True)
class Architecture:
    """A Llama: grouped-query attention, RoPE, SwiGLU, RMSNorm. Sizes count elements."""

    architectures: tuple[str, ...]
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    """Tokens of context that the model was trained for."""
    tie_word_embeddings: bool
    """Whether lm_head is the embedding itself."""
    rms_norm_eps: float
    rope_theta: float
    """Base of the rotary positions' wavelengths."""
    torch_dtype: str
    """Type of the weights that are not quantised, e.g. ``bfloat16``."""
    attention_bias: bool = False
    """Whether the four attention projections have a bias."""
    mlp_bias: bool = False
    """Whether the three projections of the MLP have a bias."""
    rope_type: str = "default"
    """How rotary positions are stretched beyond the context that they were trained for: linear, yarn, llama3, …"""
    rope_factor: float = 1.0
    """By how much, where the type has a factor."""
    original_context: int | None = None
    """Tokens of context before they were stretched, where config.json says it."""
    sliding_window: int | None = None
    """Tokens that a layer with a window looks back; none: every layer sees the whole context."""
    sliding_layers: int = 0
    """Layers that have that window in vLLM."""
    model_type: str = ""
    """Which class of transformers reads config.json: ``llama``; empty: it does not say."""

    @property
    def context(self) -> int:
        """Tokens of context that vLLM allows if not told otherwise (its config/model.py, _get_and_verify_max_len).

        Types that know the stretched length (yarn, llama3) say it in ``max_position_embeddings`` already.
        """
        if self.rope_type == "longrope" and self.original_context is not None:
            return self.original_context
        if self.rope_type in _STRETCHED_ALREADY:
            return self.max_position_embeddings
        return int(self.max_position_embeddings * self.rope_factor)

    @property
    def parameters(self) -> int:
        """Weights of the model, quantised ones counted as one each; biases not among them."""
        per_layer = sum(n * k for n, k in self.linear_shapes().values()) + 2 * self.hidden_size
        tables = 1 if self.tie_word_embeddings else 2
        return (
            self.num_hidden_layers * per_layer
            + tables * self.vocab_size * self.hidden_size
            + self.hidden_size
        )

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """``(outputs, inputs)`` of each linear layer of one decoder layer, by its name within the layer."""
        query = self.num_attention_heads * self.head_dim
        key = self.num_key_value_heads * self.head_dim
        hidden, wide = self.hidden_size, self.intermediate_size
        return {
            "self_attn.q_proj": (query, hidden),
            "self_attn.k_proj": (key, hidden),
            "self_attn.v_proj": (key, hidden),
            "self_attn.o_proj": (hidden, query),
            "mlp.gate_proj": (wide, hidden),
            "mlp.up_proj": (wide, hidden),
            "mlp.down_proj": (hidden, wide),
        }

    @property
    def biases(self) -> frozenset[str]:
        """Linear layers of a decoder layer that have a bias, named as in ``linear_shapes``."""
        parts = [part for part, has in (("self_attn.", self.attention_bias), ("mlp.", self.mlp_bias)) if has]
        return frozenset(name for name in self.linear_shapes() if name.startswith(tuple(parts)))

    def kv_bytes_per_token(self, element_bytes: int = 2) -> int:
        """Bytes of KV cache for one token: a key and a value in every layer. 2 bytes: bf16; 1: fp8."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * element_bytes


def read_architecture(path: Path) -> Architecture:
    """The architecture of the checkpoint in directory ``path``.

    Raises CheckpointError if config.json is missing or wrong, or if the model is not a Llama.
    """
    return architecture_from(read_config(path), path / CONFIG)


def architecture_from(config: Mapping[str, Any], where: Path) -> Architecture:
    """As ``read_architecture``, from a config already read; ``where`` names its file in errors."""
    values = Values(config, where)
    architectures = values.texts("architectures")
    if architectures != (LLAMA,):
        raise _another(architectures, where)
    heads = values.natural("num_attention_heads")
    hidden = values.natural("hidden_size")
    layers = values.natural("num_hidden_layers", most=MOST_LAYERS)
    kv_heads = values.natural("num_key_value_heads", heads)
    if heads % kv_heads:
        raise values.wrong("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
    if config.get("head_dim") is None and hidden % heads:
        raise values.wrong("num_attention_heads", f"a divisor of hidden_size ({hidden}), or a head_dim,")
    if values.text("hidden_act", "silu") not in ("silu", "swish"):
        raise values.wrong("hidden_act", "silu (a Llama's)")
    rope, rope_type = _rope(config, values, where)
    window = _window(values)
    return Architecture(
        architectures=architectures,
        hidden_size=hidden,
        intermediate_size=values.natural("intermediate_size"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=values.natural("head_dim", hidden // heads or 1),
        vocab_size=values.natural("vocab_size"),
        max_position_embeddings=values.natural("max_position_embeddings"),
        tie_word_embeddings=values.boolean("tie_word_embeddings", False),
        rms_norm_eps=values.positive("rms_norm_eps", 1e-6),
        rope_theta=rope.positive("rope_theta", values.positive("rope_theta", 10_000.0)),
        # transformers 5 writes `dtype`, older ones `torch_dtype`; either may read the other.
        torch_dtype=values.text("torch_dtype", values.text("dtype", "float32")),
        attention_bias=values.boolean("attention_bias", False),
        mlp_bias=values.boolean("mlp_bias", False),
        rope_type=rope_type,
        rope_factor=_rope_factor(values, rope),
        original_context=_original_context(values, rope),
        sliding_window=window,
        sliding_layers=_sliding_layers(values, layers) if window else 0,
        model_type=values.text("model_type", ""),
    )


def _another(architectures: tuple[str, ...], where: Path) -> CheckpointError:
    """What to say of a model that is no Llama by its own words."""
    named = ", ".join(architectures) or "not there"
    hint = f"use a checkpoint of the model that is converted to {LLAMA}; remote code is not read"
    if TRILLION in architectures:
        hint = (
            f"{TRILLION} is Python code that comes with the checkpoint, and vLLM has no class of that name: use a "
            f"checkpoint of the model that was saved as, or converted to, {LLAMA}. If you know that this one is a "
            f"Llama but for its name, say so in its config.json: architectures [{LLAMA}], model_type llama, no "
            "auto_map; `tri-serve checkpoint inspect` then tells whether its tensors agree"
        )
    return CheckpointError(
        f"{where}: architectures is {named}; tri-serve knows the tensors and the memory of {LLAMA} only",
        path=where,
        hint=hint,
    )


def _rope(config: Mapping[str, Any], values: Values, where: Path) -> tuple[Values, str]:
    """The rotary positions' own keys, and their type: transformers 5 writes ``rope_parameters``, older ones
    ``rope_scaling``, and still older ones ``type`` for ``rope_type``."""
    for key in ("rope_parameters", "rope_scaling"):
        section = config.get(key)
        if section is None:
            continue
        if not isinstance(section, dict):
            raise values.wrong(key, "an object")
        rope = Values(section, where, f"{key}.")
        return rope, rope.text("rope_type", rope.text("type", "default"))
    return Values({}, where), "default"


def _rope_factor(values: Values, rope: Values) -> float:
    """Below 1 it would take context away, which no type of RoPE does; the context stays a number that is one."""
    factor = rope.positive("factor", 1.0)
    most = MOST_CONTEXT / values.natural("max_position_embeddings")
    if not 1 <= factor <= most:
        raise rope.wrong("factor", f"a number from 1 to {most:,.0f} (a context of {MOST_CONTEXT:,} tokens)")
    return factor


def _original_context(values: Values, rope: Values) -> int | None:
    for place in (values, rope):
        if place.has("original_max_position_embeddings"):
            return place.natural("original_max_position_embeddings")
    return None


def _window(values: Values) -> int | None:
    """vLLM takes 0 for no window (its config/model.py)."""
    if not values.has("sliding_window") or values.is_zero("sliding_window"):
        return None
    return values.natural("sliding_window")


def _sliding_layers(values: Values, layers: int) -> int:
    """Those that ``layer_types`` names, or all where it is not there (vLLM 0.32, engine/arg_utils.py and
    model_executor/models/llama.py)."""
    if not values.has("layer_types"):
        return layers
    return values.texts("layer_types").count("sliding_attention")
