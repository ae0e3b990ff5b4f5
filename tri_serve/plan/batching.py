"""How much an engine does in one step: the limits that vLLM sets by itself, and those that suit a device better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tri_serve.plan.facts import ModelFacts, PlanDevice
from tri_serve.plan.flags import flags_in
from tri_serve.plan.words import number
from tri_serve.spec.engine import EngineSpec

GIB = 2**30

REQUEST_TOKENS = 1280
"""What a request is taken to come to, as everywhere in a plan where nobody said: a prompt of 1,024 tokens and an
answer of 256. An engine whose KV cache runs full recomputes sequences (vLLM preempts them) instead of failing."""
_WORTH = 0.1
"""How much more KV cache a limit lower than vLLM's own must bring: below a tenth it costs more, where requests are
shorter than thought, than it gives."""
_STEP_SECONDS = 0.5
"""How long one step should make every running sequence wait while it reads a piece of a prompt. vLLM's own limit
is left alone up to twice that: no prediction here is better than by a factor of two."""
_ATTAINED = 0.5
"""Share of a device's operations that reading prompts attains: a round number for sizing, not a prediction."""
_LEAST_BATCHED_TOKENS = 512
"""Below it a step reads the weights from memory for too few tokens: prompts get slower, and nothing gets faster."""
_GRAPH_STEP = 8
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
    model: ModelFacts,
    device: PlanDevice,
    engine: EngineSpec,
    max_model_len: int,
    kv_tokens: Callable[[Limits], int],
) -> Recommendation:
    """Limits for requests of 1,280 tokens on that device: never above vLLM's own, whatever the spec says.

    ``kv_tokens`` says how many tokens the KV cache holds with such limits: higher ones take some of its room.
    """
    unset = engine.model_copy(update={"max_num_seqs": None, "max_num_batched_tokens": None})
    own = engine_limits(device, unset, max_model_len)
    tokens, pace = _step_tokens(model, device, engine, own)
    each = min(REQUEST_TOKENS, max_model_len)

    def held(sequences: int) -> int:
        return kv_tokens(Limits(sequences, max(tokens, sequences)))

    sequences = min(own.sequences, _even(held(1) // each))
    while sequences > 1 and held(sequences) < sequences * each:
        sequences = _even(sequences - 1)
    room, own_room = held(sequences), held(own.sequences)
    holds = f"KV cache of {room:,} tokens holds {room // each:,} requests of {each:,} tokens"
    if sequences == own.sequences:
        return Recommendation(Limits(own.sequences, tokens), f"vLLM's own limit here; {holds}", pace)
    if room < (1 + _WORTH) * own_room:
        asked = engine.max_num_seqs
        if asked is not None and sequences <= asked < own.sequences:
            # More at once would only take room from conversations of full length.
            kept = held(asked)
            reason = f"KV cache of {kept:,} tokens holds {kept // each:,} requests of {each:,} tokens"
            return Recommendation(Limits(asked, max(tokens, asked)), reason, pace)
        more = room / own_room - 1
        reason = f"vLLM's own limit here; {sequences:,} would make only {more:.0%} more room in the KV cache"
        return Recommendation(Limits(own.sequences, tokens), reason, pace)
    saved = f"; vLLM's own limit here, {own.sequences:,}, would leave room for {max(0, own_room):,} tokens"
    return Recommendation(Limits(sequences, max(tokens, sequences)), holds + saved, pace)


def _step_tokens(model: ModelFacts, device: PlanDevice, engine: EngineSpec, own: Limits) -> tuple[int, str]:
    """Tokens that one step should have at most, and why."""
    flops = device.gpu.flops * engine.tensor_parallel_size * _ATTAINED
    if not flops:
        return own.tokens, "vLLM's own limit here; nobody said how fast this device is"
    a_token = 2 * model.architecture.parameters / flops
    took = (
        f"at half of the device's operations a step of {own.tokens:,} prompt tokens takes "
        f"{number(own.tokens * a_token)} s"
    )
    if own.tokens * a_token <= 2 * _STEP_SECONDS:
        return own.tokens, f"vLLM's own limit here; {took}"
    in_time = int(_STEP_SECONDS / a_token)
    tokens = min(own.tokens, max(_LEAST_BATCHED_TOKENS, _power_of_two(max(1, in_time))))
    pace = f"{took}, and every running sequence waits for it; about {in_time:,} take {_STEP_SECONDS:g} s"
    if tokens > in_time:
        pace += f", and fewer than {tokens:,} would waste what reading the weights costs"
    return tokens, pace


def graph_sizes(limits: Limits, compute_capability: tuple[int, int]) -> tuple[int, ...]:
    """Batch sizes that vLLM captures CUDA graphs for (0.32, config/vllm.py, _set_cudagraph_sizes)."""
    ceiling = _BLACKWELL_GRAPH if compute_capability[0] == 10 else _LARGEST_GRAPH
    largest = min(limits.tokens, 2 * limits.sequences, ceiling)
    sizes = {1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16), limits.sequences, limits.tokens}
    return tuple(sorted(size for size in sizes if size <= largest))


def _even(count: int) -> int:
    """The largest number not above ``count`` that vLLM captures a CUDA graph for: powers of two up to 8, then
    multiples of 8."""
    return count // _GRAPH_STEP * _GRAPH_STEP if count >= _GRAPH_STEP else _power_of_two(max(1, count))


def _power_of_two(count: int) -> int:
    """The largest one that is not above ``count``."""
    return 1 << (count.bit_length() - 1)
