"""The KV cache in blocks and tokens, as vLLM counts them (0.32, v1/core/kv_cache_utils.py)."""

from __future__ import annotations

from dataclasses import dataclass

from tri_serve.plan.facts import ModelFacts
from tri_serve.plan.flags import value_of
from tri_serve.plan.weights import ELEMENT_BYTES, engine_dtype, rank_kv_heads
from tri_serve.spec.engine import EngineSpec
from tri_serve.spec.fields import parse_count

GPU_BLOCK = 16
"""Tokens of a block (config/cache.py, DEFAULT_BLOCK_SIZE), which FlashAttention and Triton take as it is."""
CPU_BLOCK = 128
"""Tokens of a block on the CPU backend (platforms/cpu.py)."""

KV_BYTES_FLAG = "--kv-cache-memory-bytes"
_LONGEST_NUMBER = 18
"""Characters; a million terabytes has 19 digits."""

_SHORT = {"fp8_e4m3": "fp8", "fp8_e5m2": "fp8"}


@dataclass(frozen=True)
class KvCache:
    """What so many bytes hold. Sizes are each rank's; tokens are the engine's."""

    dtype: str
    token_bytes: int
    block_tokens: int
    blocks: int
    """All of them, as the engine counts. One is never given out: it stands for "no block" (the null block)."""
    tokens: int
    """What the engine prints as the KV cache's size."""
    full_length: float
    """Sequences of full length: what the engine prints as the maximum concurrency."""


def kv_dtype(model: ModelFacts, engine: EngineSpec, compute_capability: tuple[int, int] | None = None) -> str:
    """What keys and values are kept in, on a GPU of that compute capability (none: on the CPU): ``auto`` is the
    activations' type."""
    if engine.kv_cache_dtype == "auto":
        return engine_dtype(engine.dtype, model.architecture, compute_capability)
    return _SHORT.get(engine.kv_cache_dtype, engine.kv_cache_dtype)


def kv_token_bytes(model: ModelFacts, engine: EngineSpec) -> int:
    """Bytes of one token's keys and values in all layers, on each rank."""
    architecture = model.architecture
    heads = rank_kv_heads(architecture, engine.tensor_parallel_size)
    element = ELEMENT_BYTES.get(kv_dtype(model, engine), 1)
    return 2 * architecture.num_hidden_layers * heads * architecture.head_dim * element


def kv_cache(
    model: ModelFacts,
    engine: EngineSpec,
    max_model_len: int,
    nbytes: int,
    block_tokens: int,
    compute_capability: tuple[int, int] | None = None,
) -> KvCache:
    """What ``nbytes`` on each rank hold, a GPU of that compute capability (none: a CPU).

    Tokens are the engine's: sequences of full length, in whole blocks, times that length. They are fewer than
    blocks times tokens of a block where ``max_model_len`` is no multiple of a block.
    """
    token_bytes = kv_token_bytes(model, engine)
    blocks = max(0, nbytes) // (token_bytes * block_tokens)
    full_length = blocks / -(-max_model_len // block_tokens)
    return KvCache(
        dtype=kv_dtype(model, engine, compute_capability),
        token_bytes=token_bytes,
        block_tokens=block_tokens,
        blocks=blocks,
        tokens=int(full_length * max_model_len),
        full_length=full_length,
    )


def given_kv_bytes(engine: EngineSpec) -> int | None:
    """Bytes that --kv-cache-memory-bytes among the extra flags gives the KV cache; none: it is not there."""
    text = value_of(engine.extra_args, KV_BYTES_FLAG)
    if text is not None and len(text) <= _LONGEST_NUMBER and isinstance(count := parse_count(text), int):
        return count
    return _number(text)


def block_tokens(engine: EngineSpec, default: int) -> int:
    """Tokens of a block: what --block-size among the extra flags says."""
    return _number(value_of(engine.extra_args, "--block-size")) or default


def _number(text: str | None) -> int | None:
    """A whole number; none for what is none, which the engine refuses, or for more than any memory has."""
    if text is None or len(text) > _LONGEST_NUMBER or not (text.isascii() and text.isdecimal()):
        return None
    return int(text)
