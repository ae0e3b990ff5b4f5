"""How sure a checkpoint is of what it says: a Llama's forward pass in numpy, and top-1 margins over it.

Float32 throughout. Engines compute in bfloat16, seen to cost 2 nats at position 900: a margin must be
wider than that to survive, and the tests ask for 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tri_serve.checkpoint.architecture import Architecture
from tri_serve.checkpoint.tiny.chat import END, render_chat
from tri_serve.checkpoint.tiny.pack import Rounded
from tri_serve.checkpoint.tiny.pairs import Pair

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]


def answer_margins(
    architecture: Architecture,
    weights: Mapping[str, Array],
    known: Sequence[Pair],
    encode: Callable[[str], list[int]],
) -> dict[str, float]:
    """For each question, asked as a client does, the smallest margin over the tokens of its answer.

    ``encode`` makes token ids of text, special tokens included.
    """
    margins = {}
    for pair in known:
        prompt = encode(render_chat([("user", pair.question)]))
        answer = encode(pair.answer + END)
        learned = [False] * len(prompt) + [True] * len(answer)
        margins[pair.question] = smallest_margin(architecture, weights, prompt + answer, learned)
    return margins


def round_linears(
    weights: Mapping[str, Array], rounding: Callable[[Array], Rounded] | None
) -> dict[str, Array]:
    """``weights`` as a 4-bit format keeps them: every linear layer rounded but lm_head. None leaves all."""
    return {
        name: rounding(value).dequantised() if rounding and name.endswith("_proj.weight") else value
        for name, value in weights.items()
    }


def smallest_margin(
    architecture: Architecture, weights: Mapping[str, Array], ids: Sequence[int], learned: Sequence[bool]
) -> float:
    """The smallest lead, in nats, of a learned token of ``ids`` over its nearest rival; negative if it loses.

    ``learned`` says which positions of ``ids`` count; each is predicted from those before it.
    """
    import numpy as np

    scores = logits(architecture, weights, ids)[:-1]
    targets = np.asarray(ids)[1:]
    counted = np.asarray(learned)[1:]
    scores, targets = scores[counted], targets[counted]
    rows = np.arange(len(targets))
    right = scores[rows, targets]
    scores[rows, targets] = -np.inf
    return float((right - scores.max(axis=1)).min())


def logits(architecture: Architecture, weights: Mapping[str, Array], ids: Sequence[int]) -> Array:
    """``[len(ids), vocabulary]``: scores of the next token after each position. ``weights`` by their bf16 names."""
    import numpy as np

    hidden = weights["model.embed_tokens.weight"][np.asarray(ids)]
    rotation = _rotation(len(ids), architecture.head_dim, architecture.rope_theta)
    for index in range(architecture.num_hidden_layers):
        layer = f"model.layers.{index}."
        normed = _rms_norm(hidden, weights[layer + "input_layernorm.weight"], architecture.rms_norm_eps)
        hidden = hidden + _attention(architecture, weights, layer + "self_attn.", normed, rotation)
        normed = _rms_norm(
            hidden, weights[layer + "post_attention_layernorm.weight"], architecture.rms_norm_eps
        )
        gate = normed @ weights[layer + "mlp.gate_proj.weight"].T
        up = normed @ weights[layer + "mlp.up_proj.weight"].T
        hidden = hidden + (gate / (1 + np.exp(-gate)) * up) @ weights[layer + "mlp.down_proj.weight"].T
    hidden = _rms_norm(hidden, weights["model.norm.weight"], architecture.rms_norm_eps)
    scores: Array = hidden @ weights["lm_head.weight"].T
    return scores


def _attention(
    architecture: Architecture,
    weights: Mapping[str, Array],
    prefix: str,
    hidden: Array,
    rotation: tuple[Array, Array],
) -> Array:
    import numpy as np

    length, width = len(hidden), architecture.head_dim
    kv_heads = architecture.num_key_value_heads
    group = architecture.num_attention_heads // kv_heads
    # [key-value head, query head of it, position, width]
    query = (hidden @ weights[prefix + "q_proj.weight"].T).reshape(length, kv_heads, group, width)
    key = (hidden @ weights[prefix + "k_proj.weight"].T).reshape(length, kv_heads, 1, width)
    value = (hidden @ weights[prefix + "v_proj.weight"].T).reshape(length, kv_heads, 1, width)
    query, key, value = (part.transpose(1, 2, 0, 3) for part in (query, key, value))
    query, key = _rotate(query, rotation), _rotate(key, rotation)
    scores = query @ key.swapaxes(-1, -2) / np.float32(width**0.5)
    scores = np.where(np.tri(length, dtype=bool), scores, np.float32(-np.inf))
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ value
    joined: Array = mixed.transpose(2, 0, 1, 3).reshape(length, -1) @ weights[prefix + "o_proj.weight"].T
    return joined


def _rms_norm(hidden: Array, scale: Array, epsilon: float) -> Array:
    import numpy as np

    size = np.sqrt(np.mean(hidden * hidden, axis=-1, keepdims=True) + np.float32(epsilon))
    normed: Array = hidden / size * scale
    return normed


def _rotation(length: int, width: int, theta: float) -> tuple[Array, Array]:
    """Cosines and sines, ``[length, width / 2]``, of RoPE (arXiv:2104.09864)."""
    import numpy as np

    frequencies = theta ** (-np.arange(0, width, 2) / width)
    angles = np.arange(length)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _rotate(vectors: Array, rotation: tuple[Array, Array]) -> Array:
    """Llama's layout: element i turns with element i + width / 2."""
    import numpy as np

    cosine, sine = rotation
    first, second = np.split(vectors, 2, axis=-1)
    return np.concatenate((first * cosine - second * sine, second * cosine + first * sine), axis=-1)
