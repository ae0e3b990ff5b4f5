"""``--explain``: every number of a plan with its formula and where that is from."""

from __future__ import annotations

import textwrap

from tri_serve.plan.result import MemoryPlan, Plan, Term
from tri_serve.plan.words import gib

_INDENT = "  "


def explanation(plan: Plan, *, width: int) -> list[str]:
    """The lines of the explanation, wrapped to ``width`` columns."""
    lines = ["", *_device(plan, width)]
    if plan.model.remarks:
        lines += ["", f"model: {plan.model.origin}"]
        lines += [line for remark in plan.model.remarks for line in _wrapped(remark, width)]
    if plan.memory is not None:
        lines += ["", *_memory(plan.memory, width)]
    if plan.speed is not None:
        lines += ["", f"speed: {plan.speed.evidence}", *_wrapped(plan.speed.evidence_detail, width)]
        limits = {point.bound for point in plan.speed.decode}
        words = {
            "memory": "generating waits for weights and KV cache to be read: bytes / (bandwidth x share)",
            "compute": "generating waits for arithmetic: operations / (operations per second x share)",
        }
        lines += [line for limit in sorted(limits) for line in _wrapped(words[limit], width)]
        lines += _wrapped("a prompt is read at operations / (operations per second x share)", width)
    if plan.findings:
        lines += ["", "rules that spoke"]
        for finding in plan.findings:
            lines += _wrapped(f"{finding.rule}: from {finding.source}", width)
    return lines


def _device(plan: Plan, width: int) -> list[str]:
    device = plan.device
    capability = f", compute capability {device.compute_capability}" if device.compute_capability else ""
    return [
        f"device: {device.title}, as {_seen(device.seen)}",
        *_wrapped(
            f"{device.total:,} B, {device.free:,} B of them free; {device.bandwidth / 1e9:,.0f} GB/s, "
            f"{device.flops / 1e12:,.1f} dense bf16 TFLOPS{capability}",
            width,
        ),
        *[line for name, source in device.sources.items() for line in _wrapped(f"{name}: {source}", width)],
    ]


def _seen(seen: str) -> str:
    return "the catalogue has it" if seen == "catalogue" else "seen on this machine"


def _memory(memory: MemoryPlan, width: int) -> list[str]:
    lines = [f"memory: {memory.requested:,} B ({gib(memory.requested)}) for the engine"]
    for term in memory.terms:
        lines += _term(term, width)
    lines += _wrapped(
        f"KV cache: {memory.kv_bytes_per_token:,} B a token on each GPU in {memory.kv_dtype}; "
        f"{memory.blocks:,} blocks of {memory.block_tokens} tokens = {memory.kv_tokens:,} tokens",
        width,
    )
    lines += _wrapped(
        f"full length: {memory.kv_tokens:,} / {memory.max_model_len:,} tokens = "
        f"{memory.full_length_sequences:.2f} sequences",
        width,
    )
    now = {"max_num_seqs": memory.max_num_seqs, "max_num_batched_tokens": memory.max_num_batched_tokens}
    for name, advised in memory.recommended.items():
        words = "as recommended" if now[name] == advised else f"recommended: {advised:,}"
        lines += _wrapped(f"{name}: {now[name]:,}, {words}: {memory.reasons[name]}", width)
    if memory.outside:
        beside = memory.total - memory.requested
        lines += ["", f"beside it: {beside:,} B ({gib(beside)})"]
        for term in memory.outside:
            lines += _term(term, width)
    return lines


def _term(term: Term, width: int) -> list[str]:
    return [
        f"{_INDENT}{term.name}: {term.nbytes:,} B ({gib(term.nbytes)})",
        *_wrapped(term.formula, width, depth=2),
        *_wrapped(f"from {term.source}", width, depth=2),
    ]


def _wrapped(text: str, width: int, *, depth: int = 1) -> list[str]:
    indent = _INDENT * depth
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent + _INDENT, break_on_hyphens=False
    )
