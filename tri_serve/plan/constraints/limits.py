"""Rules on lengths: of the context, of a batch, of a step."""

from __future__ import annotations

from collections.abc import Iterator

from tri_serve.plan.batching import chunks_prefill, engine_limits
from tri_serve.plan.constraints.request import Request
from tri_serve.plan.constraints.rule import Found, Rule
from tri_serve.plan.constraints.voided import LONGER, context_voided_by


def _context(request: Request) -> Iterator[Found]:
    asked, context = request.spec.model.max_model_len, request.model.architecture.context
    if asked is None or asked <= context:
        return
    allowed = context_voided_by(request.spec.engine)
    said = f"model.max_model_len is {asked:,} tokens, and the model was made for {context:,} (config.json)"
    if allowed is None or allowed == LONGER:
        yield Found(
            "refusal" if allowed is None else "warning",
            f"{said}; beyond that its answers are not to be relied on"
            + (f" ({LONGER} is set)" if allowed else ""),
            change={"model.max_model_len": str(context)},
        )
        return
    yield Found(
        "warning",
        f"{said}; the engine takes it if {allowed} changes that",
        advice="with yarn vLLM 0.32 reads the context from max_position_embeddings, which is to be overridden too",
    )


CONTEXT = Rule(
    "context-of-the-model",
    "`model.max_model_len` is at most the context that config.json gives the model.",
    "vLLM 0.32.0: config/model.py, _get_and_verify_max_len",
    ("refusal", "warning"),
    _context,
)


def _batch(request: Request) -> Iterator[Found]:
    engine, length = request.spec.engine, request.max_model_len
    tokens, chunked = engine_limits(request.device, engine, length).tokens, chunks_prefill(engine)
    asked = engine.max_num_batched_tokens is not None
    if not asked and not request.device.memory_known:
        return  # the engine's default is by the GPU's memory
    if asked and tokens < length and not chunked:
        yield Found(
            "refusal",
            f"max_num_batched_tokens {tokens:,} is less than the longest sequence, {length:,} tokens, and "
            "without chunked prefill a prompt must fit one step",
            change={"engine.max_num_batched_tokens": str(max(length, engine.max_num_seqs or 0))},
            advice="or leave out --no-enable-chunked-prefill",
        )
    elif engine.max_num_seqs is not None and tokens < engine.max_num_seqs:
        said = "" if asked else " (the engine's default here)"
        yield Found(
            "refusal",
            f"max_num_seqs {engine.max_num_seqs:,} is more than max_num_batched_tokens {tokens:,}{said}: a "
            "step gives each running sequence one token",
            change={"engine.max_num_batched_tokens": str(engine.max_num_seqs)}
            if chunked or engine.max_num_seqs >= length
            else {"engine.max_num_seqs": str(tokens)},
        )


BATCH = Rule(
    "tokens-of-a-step",
    "A step has room for every running sequence, and without chunked prefill for the longest prompt.",
    "vLLM 0.32.0: config/scheduler.py (verify_max_model_len), engine/arg_utils.py (get_batch_defaults)",
    ("refusal",),
    _batch,
)

RULES = (CONTEXT, BATCH)
