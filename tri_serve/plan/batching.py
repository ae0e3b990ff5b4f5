"""How much an engine does in one step: the limits that vLLM sets by itself, and those that suit a device better."""

from __future__ import annotations

from dataclasses import dataclass

from tri_serve.plan.facts import ModelFacts, PlanDevice
from tri_serve.plan.flags import flags_in
from tri_serve.spec.engine import EngineSpec

GIB = 2**30

_TYPICAL_SHARE = 4
"""A sequence in flight is taken to use a quarter of the longest context: chats are short of it on average, and
an engine whose KV cache runs full recomputes sequences (vLLM preempts them) instead of failing."""
_STEP_SECONDS = 0.5
"""How long one step may make every running sequence wait while it reads a piece of a prompt."""
_ATTAINED = 0.5
"""Share of a device's operations that reading prompts attains: a round number for sizing, not a prediction."""
_LEAST_BATCHED_TOKENS = 512
"""Below it a step reads the weights from memory for too few tokens: prompts get slower, and nothing gets faster."""
_LARGEST_GRAPH = 512
_BLACKWELL_GRAPH = 1024


@dataclass(frozen=True)
class Limits:
    """Limits of one engine step."""

    sequences: int
    """``--max-num-seqs``."""
    tokens: int
    """``--max-num-batched-tokens``."""


@dataclass(frozen=True)
class Recommendation:
    """Limits, and for each why."""

    limits: Limits
    sequences_reason: str
    tokens_reason: str


def chunks_prefill(engine: EngineSpec) -> bool:
    """Whether long prompts are read in pieces: vLLM does so unless a flag forbids it, and the last flag counts."""
    said = [
        flag.name
        for flag in flags_in(engine.extra_args)
        if flag.name in ("--enable-chunked-prefill", "--no-enable-chunked-prefill")
    ]
    return not said or said[-1] == "--enable-chunked-prefill"


def engine_limits(device: PlanDevice, engine: EngineSpec, max_model_len: int) -> Limits:
    """The limits that a server runs with: the spec's, or what vLLM takes (0.32, engine/arg_utils.py,
    get_batch_defaults for OPENAI_API_SERVER and _set_default_max_num_seqs_and_batched_tokens_args)."""
    ranks = engine.tensor_parallel_size
    if device.gpu.is_cpu:
        tokens, sequences = 2048 * ranks, 128 * ranks
    elif device.total_bytes >= 160 * GIB:
        tokens, sequences = 16384, 1024
    elif device.total_bytes >= 70 * GIB and "a100" not in device.gpu.title.lower():
        tokens, sequences = 8192, 1024
    else:
        tokens, sequences = 2048, 256
    sequences = engine.max_num_seqs or sequences
    if not chunks_prefill(engine):
        tokens = max(tokens, max_model_len)
    tokens = engine.max_num_batched_tokens or min(tokens, sequences * max_model_len)
    return Limits(sequences if engine.max_num_seqs else min(sequences, tokens), tokens)


def recommended_limits(
    model: ModelFacts, device: PlanDevice, engine: EngineSpec, max_model_len: int, kv_tokens: int
) -> Recommendation:
    """Limits for chats on that device whose KV cache holds ``kv_tokens``: never above vLLM's own."""
    unset = engine.model_copy(update={"max_num_seqs": None, "max_num_batched_tokens": None})
    own = engine_limits(device, unset, max_model_len)
    typical = max(1, max_model_len // _TYPICAL_SHARE)
    fitting = max(1, kv_tokens // typical)
    sequences = min(own.sequences, _power_of_two(fitting))
    reason = f"{kv_tokens:,} tokens of KV cache hold {fitting:,} sequences of {typical:,} tokens"
    if sequences == own.sequences:
        reason = f"vLLM's own limit on this device; {reason}"
    flops = device.gpu.flops * engine.tensor_parallel_size * _ATTAINED
    in_time = int(flops * _STEP_SECONDS / (2 * model.architecture.parameters))
    tokens = min(own.tokens, max(_LEAST_BATCHED_TOKENS, sequences, _power_of_two(max(1, in_time))))
    pace = (
        f"about {in_time:,} prompt tokens take {_STEP_SECONDS:g} s at half of the device's operations, and every "
        "running sequence waits for them"
    )
    if tokens == own.tokens:
        pace = f"vLLM's own limit on this device; {pace}"
    elif tokens > in_time:
        pace += f"; fewer than {tokens:,} would waste what reading the weights costs"
    return Recommendation(Limits(sequences, tokens), reason, pace)


def graph_sizes(limits: Limits, compute_capability: tuple[int, int]) -> tuple[int, ...]:
    """Batch sizes that vLLM captures CUDA graphs for (0.32, config/vllm.py, _set_cudagraph_sizes)."""
    ceiling = _BLACKWELL_GRAPH if compute_capability[0] == 10 else _LARGEST_GRAPH
    largest = min(limits.tokens, 2 * limits.sequences, ceiling)
    sizes = {1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16), limits.sequences, limits.tokens}
    return tuple(sorted(size for size in sizes if size <= largest))


def _power_of_two(count: int) -> int:
    """The largest one that is not above ``count``."""
    return 1 << (count.bit_length() - 1)
