"""A plan's numbers as people read them: the same on the screen, in tables and on the page."""

from __future__ import annotations

import math
import shlex

from tri_serve.plan.result import (
    Change,
    DecodePoint,
    DemandPlan,
    MemoryPlan,
    OpenRange,
    Plan,
    Range,
    SloPlan,
    SpeedPlan,
)

_GIB = 2**30


def gib(nbytes: int) -> str:
    """``11.79 GiB``, or ``3.6 MiB`` where that would be nothing."""
    return f"{nbytes / _GIB:,.2f} GiB" if abs(nbytes) >= _GIB / 10 else f"{nbytes / 2**20:,.1f} MiB"


def parameters_words(count: int) -> str:
    """``20.73 billion parameters``."""
    size, word = (1e9, "billion") if count >= 1e9 else (1e6, "million")
    return f"{count / size:.2f} {word} parameters"


def number(value: float) -> str:
    """Two digits, since no prediction is better than that; ``0.42``, ``4.2``, ``5,300``."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def span(values: Range | OpenRange) -> str:
    """``14 (10-17)``: what is likely, and from where to where it may be; ``14 (10+)`` if that has no end."""
    if values.high is None:
        return f"{number(values.likely)} ({number(values.low)}+)"
    likely, low, high = (number(value) for value in (values.likely, values.low, values.high))
    return likely if low == high else f"{likely} ({low}-{high})"


def seconds(values: Range) -> str:
    """``1.9 s (1.2-2.7)``, ``80 ms (60-100)``."""
    unit, scale = ("ms", 1e3) if values.likely < 0.995 else ("s", 1.0)
    return span_with_unit(values, unit, scale)


def span_with_unit(values: Range, unit: str, scale: float = 1.0) -> str:
    """As ``span``, of values times ``scale``, the unit behind what is likely."""
    likely, low, high = (number(value * scale) for value in (values.likely, values.low, values.high))
    return f"{likely} {unit}" if low == high else f"{likely} {unit} ({low}-{high})"


def percent(share: Range) -> str:
    """``61% (58-64)``."""
    likely, low, high = (number(100 * value) for value in (share.likely, share.low, share.high))
    return f"{likely}% ({low}-{high})"


def rate_of_each(point: DecodePoint) -> Range:
    """Tokens a second of one sequence among those of ``point``."""
    rate = point.rate
    return Range(low=rate.low / point.batch, likely=rate.likely / point.batch, high=rate.high / point.batch)


def device_words(plan: Plan) -> str:
    """``one NVIDIA L4 24 GB``, ``4 x NVIDIA L4 24 GB``."""
    if plan.device.compute_capability is None:
        return plan.device.title
    return f"{'one' if plan.device.count == 1 else f'{plan.device.count} x'} {plan.device.title}"


def engine_words(plan: Plan) -> str:
    """``vllm 0.32.0, kernel Marlin``."""
    return plan.engine if plan.kernel.startswith("none") else f"{plan.engine}, kernel {plan.kernel}"


def users_words(memory: MemoryPlan) -> str:
    """``5 users at once with 8,192 tokens each``; with what the KV cache could hold where fewer may run."""
    said = f"{counted(memory.users, 'user')} at once with {memory.max_model_len:,} tokens each"
    room = int(memory.full_length_sequences)
    return said if room <= memory.users else f"{said} (KV cache has room for {room:,})"


def fleet_words(plan: Plan) -> str:
    """``5 users at once with 8,192 tokens each; 15 with 3 engines``: of one, and of all."""
    if plan.memory is None:
        return ""
    said = users_words(plan.memory)
    return (
        said
        if plan.replicas == 1
        else f"{said}; {plan.replicas * plan.memory.users:,} with {plan.replicas} engines"
    )


def too_few_words(plan: Plan) -> str:
    """That ``fleet.replicas`` are fewer than the load takes; empty if they are not."""
    demand = plan.demand
    if plan.replicas == 1 or demand is None or demand.replicas is None:
        return ""
    if demand.replicas.likely <= plan.replicas:
        return ""
    return f"fleet.replicas is {plan.replicas}: too few"


def counted(count: int, what: str) -> str:
    """``1 user``, ``1,024 users``."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def weights_words(plan: Plan) -> str:
    """``11.79 GiB of weights``; where the engine keeps them otherwise, ``11.72 GiB of weights on disk, 12.56 GiB on
    the GPU``."""
    stored = gib(plan.model.weight_bytes)
    terms = () if plan.memory is None else plan.memory.terms
    kept = next((gib(term.nbytes) for term in terms if term.name == "weights"), stored)
    if kept == stored:
        return f"{stored} of weights"
    if plan.device.compute_capability is None:
        return f"{stored} of weights on disk, {kept} in memory"
    where = "the GPU" if plan.device.count == 1 else "each GPU"
    return f"{stored} of weights on disk, {kept} on {where}"


def slo_words(slo: SloPlan) -> str:
    """Up to how many users at once one engine keeps the SLO, and what breaks it then."""
    asked = f"{slo.promised} for {slo.input_len:,} + {slo.output_len:,} tokens"
    kept = round(slo.users.likely)
    if not kept:
        if slo.most < 1:
            return f"{asked}: not one such request fits"
        return f"{asked}: not kept even for one user at once: {slo.breaks}"
    some = span(slo.users)
    many = f"one engine keeps it up to {some} user{'s' * (max(kept, round(slo.users.high)) != 1)} at once"
    if not slo.breaks:
        return f"{asked}: {many}, as many as fit"
    return f"{asked}: {many}; {kept + 1:,} would have {slo.breaks}"


def evidence_words(speed: SpeedPlan) -> str:
    """What the prediction rests on, shortly: the rest is for ``--explain``."""
    if speed.evidence == "prior":
        return "a prior, not from measurements (plan calibrate)"
    return speed.evidence_detail


def unknown_speed_words(plan: Plan) -> str:
    """Why there is no speed, for a plan of something that works."""
    if plan.memory is not None and not plan.memory.fits:
        return "not predicted, and no load planned: what is on the GPU is not known"
    return f"not predicted, and no load planned: the catalogue has no {plan.device.title}, and so not its bandwidth"


def engines_words(demand: DemandPlan) -> str:
    """``4 (3-6) engines``: whole ones, since no engine can be had in part."""
    if demand.replicas is None:
        return "no number of engines suffices"
    likely, low = (f"{math.ceil(value):,}" for value in (demand.replicas.likely, demand.replicas.low))
    high = None if demand.replicas.high is None else f"{math.ceil(demand.replicas.high):,}"
    reach = f"{low}+" if high is None else f"{low}-{high}"
    some = likely if low == high else f"{likely} ({reach})"
    return f"{some} engine{'s' * (some != '1')}"


def options_of(keys: dict[str, str], gpu: str | None = None, preset: str | None = None) -> str:
    """The arguments that ask for these values: ``tri-21b-awq --gpu l40s --set engine.tensor_parallel_size=2``."""
    sets = (f"--set {shlex.quote(f'{key}={value}')}" for key, value in keys.items())
    return " ".join([*([preset] if preset else []), *([f"--gpu {gpu}"] if gpu else []), *sets])


def change_words(change: Change) -> str:
    """What to ask for, and what comes of it; only the latter where nothing can be asked for."""
    options = options_of(change.keys, change.gpu, change.preset)
    return f"{options}: {change.effect}" if options else change.effect
