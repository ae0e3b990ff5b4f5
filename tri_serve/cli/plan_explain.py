"""``--explain``: every number of a plan with its formula and where that is from."""

from __future__ import annotations

import textwrap

from tri_serve.plan.result import DemandPlan, EngineLoad, MemoryPlan, Plan, SpeedPlan, Term
from tri_serve.plan.words import gib, percent, slo_words, span_with_unit

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
        if plan.speed.evidence_file is not None:
            lines += _wrapped(f"from {plan.speed.evidence_file}", width)
        lines += _shares(plan.speed, width)
        limits = {point.bound for point in plan.speed.decode}
        words = {
            "memory": "generating waits for weights and KV cache to be read: bytes / (bandwidth x share)",
            "compute": "generating waits for arithmetic: operations / (operations per second x share)",
        }
        lines += [line for limit in sorted(limits) for line in _wrapped(words[limit], width)]
        lines += _wrapped("a prompt is read at operations / (operations per second x share)", width)
        lines += _wrapped("first token: of a user alone, when its prompt is read", width)
    if plan.slo is not None:
        lines += ["", "slo: one engine", *_wrapped(slo_words(plan.slo), width)]
        if plan.slo.engine is not None and plan.demand is None:
            lines += _engine(plan.slo.engine, plan.slo.input_len, plan.slo.output_len, width, closed=True)
    if plan.demand is not None:
        lines += _demand(plan.demand, width)
    if plan.findings:
        lines += ["", "rules that spoke"]
        for finding in plan.findings:
            lines += _wrapped(f"{finding.rule}: from {finding.source}", width)
    return lines


def _shares(speed: SpeedPlan, width: int) -> list[str]:
    """What is attained, in percent, and what each figure rests on."""
    lines: list[str] = []
    for of in dict.fromkeys(share.of for share in speed.shares):
        said = [
            percent(one.share)
            + ("" if one.batch is None else f" with {one.batch:,} at once")
            + f", {one.basis}"
            for one in speed.shares
            if one.of == of
        ]
        lines += _wrapped(f"share of {of}: {'; '.join(said)}", width)
    if speed.step_overhead is not None:
        waits = span_with_unit(speed.step_overhead, "ms", 1e3)
        lines += _wrapped(f"each step waits for the engine: {waits}", width)
    return lines


def _demand(demand: DemandPlan, width: int) -> list[str]:
    rate = demand.request_rate
    asked = f"{rate:g} request{'s' * (rate != 1)}/s"
    lines = ["", f"load: {asked} of {demand.input_len:,} + {demand.output_len:,} tokens"]
    lines += _wrapped(f"what sets it: {demand.limited_by}", width)
    if demand.engine is None or demand.replicas is None:
        return lines
    lines += _engine(demand.engine, demand.input_len, demand.output_len, width)
    lines += _wrapped(
        f"engines: {asked} / ({demand.utilization:g} x {demand.engine.request_rate:.3g}) = "
        f"{rate / (demand.utilization * demand.engine.request_rate):.3g}, rounded up: "
        f"{demand.replicas.likely:,.0f}; {demand.utilization:g} leaves room for bursts; the range is that of the "
        "shares attained",
        width,
    )
    hourly, each = demand.cost_per_hour, demand.cost_per_million_output_tokens
    if demand.price is None or hourly is None or each is None:
        return lines
    lines += ["", f"cost: {demand.price:g} for one GPU and hour"]
    lines += _wrapped(
        f"an hour: {demand.price:g} x {demand.gpus_each} GPU{'s' * (demand.gpus_each != 1)} of each engine x "
        f"{demand.replicas.likely:,.0f} = {hourly.likely:.3g}",
        width,
    )
    lines += _wrapped(
        f"a million output tokens: {hourly.likely:.3g} / ({rate:g} x {demand.output_len:,} x 3,600 s) x 1,000,000 "
        f"= {each.likely:.3g}; with prompt tokens counted, {demand.input_len + demand.output_len:,} stand in the "
        f"place of {demand.output_len:,}",
        width,
    )
    return lines


def _engine(
    engine: EngineLoad, input_len: int, output_len: int, width: int, *, closed: bool = False
) -> list[str]:
    """How one engine's rate and waits come about, for the likely pace."""
    n, further = engine.sequences, output_len - 1
    bursts = f"(n - 1) x T / (2 x {further:,})" if further else "(n - 1) x T"
    wait = f"{bursts}, for those who ask again with the same step" if closed else "M/D/1"
    prompt, step = (f"{1000 * value:,.1f} ms" for value in (engine.prompt_seconds, engine.step_seconds))
    ttft, tpot, e2e = (f"{1000 * value:,.1f} ms" for value in (engine.ttft, engine.tpot, engine.e2e))
    words = (
        f"one engine with n = {n:,} at once, likely: T = {prompt} for a prompt of {input_len:,} tokens, s = {step} "
        f"for a step of n sequences with {input_len + output_len // 2:,} tokens each",
        f"requests/s: 1 / (T + {further:,} x s / n) = {engine.request_rate:.3g}",
        f"TPOT: s + n x T / {further:,} = {tpot}" if further else "TPOT: an answer of one token has none",
        f"TTFT: T + the wait for prompts of the {n - 1:,} others ({wait}) + their steps meanwhile = {ttft}",
        f"end to end: TTFT + {further:,} x TPOT = {e2e}",
        f"from Little's law{'' if closed else ' and Pollaczek-Khinchine'}; an engine that is never idle",
    )
    return [line for said in words for line in _wrapped(said, width)]


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
