"""The architecture: what ``config.json`` says of the model's shape, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tri_serve.checkpoint.config_file import CONFIG, Values, read_config
from tri_serve.errors import CheckpointError

LLAMA = "LlamaForCausalLM"

MOST_LAYERS = 10_000
"""Far above any model (the deepest have some 130); a wrong number must not fill memory with tensor names."""


@dataclass(frozen=True)
class Architecture:
    """A Llama: grouped-query attention over the full context, RoPE, SwiGLU, RMSNorm. Sizes count elements."""

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

    def kv_bytes_per_token(self, element_bytes: int = 2) -> int:
        """Bytes of KV cache for one token: a key and a value in every layer. 2 bytes: bf16; 1: fp8."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * element_bytes


def read_architecture(path: Path) -> Architecture:
    """The architecture of the checkpoint in directory ``path``.

    Raises CheckpointError if config.json is missing or wrong, or if the model is not a Llama.
    """
    return architecture_from(read_config(path), path / CONFIG)


def architecture_from(config: dict[str, Any], where: Path) -> Architecture:
    """As ``read_architecture``, from a config already read; ``where`` names its file in errors."""
    values = Values(config, where)
    architectures = values.texts("architectures")
    if architectures != (LLAMA,):
        raise CheckpointError(
            f"{where}: architectures is {', '.join(architectures) or 'not there'}; tri-serve knows the tensors and "
            f"the memory of {LLAMA} only",
            path=where,
            hint=f"use a checkpoint of the model that is converted to {LLAMA}; remote code is not read",
        )
    heads = values.natural("num_attention_heads")
    hidden = values.natural("hidden_size")
    kv_heads = values.natural("num_key_value_heads", heads)
    if heads % kv_heads:
        raise values.wrong("num_key_value_heads", f"a divisor of num_attention_heads ({heads})")
    if config.get("head_dim") is None and hidden % heads:
        raise values.wrong("num_attention_heads", f"a divisor of hidden_size ({hidden}), or a head_dim,")
    return Architecture(
        architectures=architectures,
        hidden_size=hidden,
        intermediate_size=values.natural("intermediate_size"),
        num_hidden_layers=values.natural("num_hidden_layers", most=MOST_LAYERS),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=values.natural("head_dim", hidden // heads or 1),
        vocab_size=values.natural("vocab_size"),
        max_position_embeddings=values.natural("max_position_embeddings"),
        tie_word_embeddings=values.boolean("tie_word_embeddings", False),
        rms_norm_eps=values.positive("rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(config, values, where),
        # transformers 5 writes `dtype`, older ones `torch_dtype`; either may read the other.
        torch_dtype=values.text("torch_dtype", values.text("dtype", "float32")),
    )


def _rope_theta(config: dict[str, Any], values: Values, where: Path) -> float:
    """Its own key, or, as transformers 5 writes it, within ``rope_parameters``."""
    parameters = config.get("rope_parameters")
    if isinstance(parameters, dict):
        return Values(parameters, where, "rope_parameters.").positive("rope_theta", 10_000.0)
    return values.positive("rope_theta", 10_000.0)
