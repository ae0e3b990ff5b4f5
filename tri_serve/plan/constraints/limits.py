"""Rules on lengths: of the context, of a batch, of a step."""

from __future__ import annotations

from collections.abc import Iterator

from tri_serve.plan.constraints.flags import flags_in
from tri_serve.plan.constraints.request import Request
from tri_serve.plan.constraints.rule import Found, Rule

LONGER = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
GIB = 2**30


def _context(request: Request) -> Iterator[Found]:
    asked, context = request.spec.model.max_model_len, request.model.architecture.context
    if asked is None or asked <= context:
        return
    allowed = request.spec.engine.env.get(LONGER, "0").lower() in ("1", "true")
    yield Found(
        "warning" if allowed else "refusal",
        f"model.max_model_len is {asked:,} tokens, and the model was made for {context:,} (config.json); "
        "beyond that "
        "its answers are not to be relied on" + (f" ({LONGER} is set)" if allowed else ""),
        change={"model.max_model_len": str(context)},
    )


CONTEXT = Rule(
    "context-of-the-model",
    "`model.max_model_len` is at most the context that config.json gives the model.",
    "vLLM 0.32.0: config/model.py, _get_and_verify_max_len",
    ("refusal", "warning"),
    _context,
)


def default_batch(request: Request) -> tuple[int, int]:
    """max_num_batched_tokens and max_num_seqs of vLLM's server if nothing is said (0.32.0, engine/arg_utils.py,
    get_batch_defaults)."""
    device = request.device
    if device.gpu.is_cpu:
        return 2_048 * request.tensor_parallel, 128 * request.tensor_parallel
    if device.total_bytes >= 160 * GIB:
        return 16_384, 1_024
    if device.total_bytes >= 70 * GIB and "a100" not in device.gpu.name.lower():
        return 8_192, 1_024
    return 2_048, 256


def _chunked(request: Request) -> bool:
    """Whether prefill is cut in chunks; the last flag counts."""
    said = [
        flag.name
        for flag in flags_in(request.spec.engine.extra_args)
        if flag.name in ("--enable-chunked-prefill", "--no-enable-chunked-prefill")
    ]
    return not said or said[-1] == "--enable-chunked-prefill"


def _batch(request: Request) -> Iterator[Found]:
    engine, length = request.spec.engine, request.max_model_len
    tokens, sequences = default_batch(request)
    asked_tokens = engine.max_num_batched_tokens is not None
    sequences = engine.max_num_seqs or sequences
    if engine.max_num_batched_tokens is not None:
        tokens = engine.max_num_batched_tokens
    else:
        tokens = min(tokens if _chunked(request) else max(tokens, length), sequences * length)
    if asked_tokens and tokens < length and not _chunked(request):
        yield Found(
            "refusal",
            f"max_num_batched_tokens {tokens:,} is less than the longest sequence, {length:,} tokens, and "
            "without chunked prefill a prompt must fit one step",
            change={"engine.max_num_batched_tokens": str(max(length, engine.max_num_seqs or 0))},
            advice="or leave out --no-enable-chunked-prefill",
        )
    elif engine.max_num_seqs is not None and tokens < engine.max_num_seqs:
        said = "" if asked_tokens else " (the engine's default here)"
        yield Found(
            "refusal",
            f"max_num_seqs {engine.max_num_seqs:,} is more than max_num_batched_tokens {tokens:,}{said}: a "
            "step gives each running sequence one token",
            change={"engine.max_num_batched_tokens": str(engine.max_num_seqs)}
            if _chunked(request) or engine.max_num_seqs >= length
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
