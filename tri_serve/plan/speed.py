"""How fast one engine should be: time per output token by batch and context, time to first token by prompt."""

from __future__ import annotations

from collections.abc import Sequence

from tri_serve.plan.facts import ModelFacts, PlanDevice
from tri_serve.plan.result import DecodePoint, MemoryPlan, PrefillPoint, Range, SpeedPlan
from tri_serve.plan.roofline import Roofline, roofline
from tri_serve.plan.shares import ENDS, Pace, Shares
from tri_serve.spec.engine import EngineSpec

BATCHES = (1, 8, 32, 64)
_CONTEXT = 1024
"""Tokens behind each sequence where nothing else was asked for: a common length of chats."""


def plan_speed(
    model: ModelFacts,
    device: PlanDevice,
    engine: EngineSpec,
    memory: MemoryPlan,
    shares: Shares,
    *,
    batches: Sequence[int] = BATCHES,
    contexts: Sequence[int] | None = None,
    prompts: Sequence[int] | None = None,
    tpot_slo: float | None = None,
    slo_context: int | None = None,
) -> SpeedPlan:
    """Predict decoding for every batch and context, and prefill for every length of prompt.

    ``contexts`` none: 1,024 tokens and the longest that is allowed; ``prompts`` none: the same. ``tpot_slo`` is
    in seconds, and judged at ``slo_context`` tokens behind each sequence, or the first of ``contexts``.
    """
    lengths = tuple(dict.fromkeys((min(_CONTEXT, memory.max_model_len), memory.max_model_len)))
    contexts = lengths if contexts is None else contexts
    prompts = lengths if prompts is None else prompts
    roof = engine_roofline(model, device, engine, memory)
    largest = None
    if tpot_slo is not None:
        context = contexts[0] if slo_context is None else slo_context
        most = sequences_at_once(memory, context)
        largest = largest_batch(roof, shares.pace("likely"), context, most, tpot_slo)
    return SpeedPlan(
        evidence=shares.evidence,
        evidence_detail=shares.detail,
        evidence_file=shares.file,
        shares=shares.attained(),
        step_overhead=shares.overhead,
        decode=tuple(
            _decode_point(roof, shares, memory, batch, context) for context in contexts for batch in batches
        ),
        prefill=tuple(
            _prefill_point(roof, shares, tokens, memory.max_num_batched_tokens) for tokens in prompts
        ),
        largest_batch_for_slo=largest,
    )


def engine_roofline(
    model: ModelFacts, device: PlanDevice, engine: EngineSpec, memory: MemoryPlan
) -> Roofline:
    """The roofline of one engine of a spec."""
    return roofline(model, device.gpu, engine.tensor_parallel_size, memory.kv_bytes_per_token)


def sequences_at_once(memory: MemoryPlan, tokens: int) -> int:
    """Sequences of ``tokens`` tokens that the engine runs at once: as its limit and its KV cache allow."""
    blocks_each = -(-tokens // memory.block_tokens)
    return min(memory.max_num_seqs, memory.blocks // max(1, blocks_each))


def largest_batch(roof: Roofline, pace: Pace, context: int, most: int, tpot: float) -> int:
    """The most sequences at once, ``most`` at most, up to which a step never takes longer than ``tpot`` seconds;
    0 if not even one keeps it."""
    batch = 0
    while batch < most and roof.decode_seconds(pace, batch + 1, context) <= tpot:
        batch += 1
    return batch


def _decode_point(
    roof: Roofline, shares: Shares, memory: MemoryPlan, batch: int, context: int
) -> DecodePoint:
    fast, likely, slow = (roof.decode_seconds(shares.pace(end), batch, context) for end in ENDS)
    return DecodePoint(
        batch=batch,
        context=context,
        tpot=Range(low=fast, likely=likely, high=slow),
        rate=Range(low=batch / slow, likely=batch / likely, high=batch / fast),
        bound="memory" if roof.memory_bound(shares.pace("likely"), batch, context) else "compute",
        fits=batch <= sequences_at_once(memory, context),
    )


def _prefill_point(roof: Roofline, shares: Shares, tokens: int, chunk: int) -> PrefillPoint:
    fast, likely, slow = (roof.prefill_seconds(shares.pace(end), tokens, chunk) for end in ENDS)
    return PrefillPoint(
        tokens=tokens,
        ttft=Range(low=fast, likely=likely, high=slow),
        rate=Range(low=tokens / slow, likely=tokens / likely, high=tokens / fast),
    )
