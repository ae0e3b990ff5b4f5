"""From measurements to attained shares, and from shares to those that a plan should use."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from tri_serve.errors import UsageError
from tri_serve.plan.calibration_table import (
    MOST_SECONDS,
    Calibration,
    CalibrationTable,
    MemoryShare,
    Source,
)
from tri_serve.plan.catalogue import load_catalogue
from tri_serve.plan.facts import Gpu, ModelFacts
from tri_serve.plan.result import Range
from tri_serve.plan.roofline import Roofline, roofline
from tri_serve.plan.shares import Pace, Shares, interpolated, prior_shares
from tri_serve.spec.engine import EngineSpec

if TYPE_CHECKING:
    # Whoever fits has imported it; a plan only wants the shares, and should not wait for it.
    from tri_serve.plan.measurements import Measurement

_FEW = 3
_SPREAD_OF_FEW = 0.15
"""Below ``_FEW`` measurements their own spread says nothing; runs on other machines of a kind differ by that."""
_LEAST_SPREAD = 0.05
"""Measurements of one machine agree better than machines of one kind do."""
_MAD_TO_SIGMA = 1.4826
"""Of a normal distribution: its standard deviation is that many median absolute deviations."""
_TOO_MUCH = 1.05
"""More than the roof is an error of what was stated; a little more may be one of a clock or a datasheet."""
_TOO_LITTLE = 0.001
"""Less is no engine at work."""
_LEAST_SHARE = 0.01
"""Down to which measurements that differ widely make a range reach, unless they are that low themselves."""
_FURTHER = 4
"""Times the largest batch measured at which nothing is left of what was measured but its middle, where the prior
says nothing of larger ones."""
_LEAST_LEVERAGE = 0.05
"""Below it the steps of a batch are so alike that time per byte and time per step cannot be told apart."""


def fit(
    measurements: Sequence[Measurement],
    model: ModelFacts,
    *,
    made: str,
    made_with: str,
    machine: str,
    sources: Iterable[Source] = (),
) -> CalibrationTable:
    """Fit the shares of each GPU × engine minor version × quantization that was measured with ``model``.

    Raises UsageError if a measurement is faster than the device can be, or was taken with other weights.
    """
    groups: dict[tuple[str, str, str, str], list[Measurement]] = defaultdict(list)
    for point in measurements:
        if point.quantization != model.quantization.method:
            raise UsageError(
                f"{point.provenance}: measured with quantization {point.quantization}, and the model that the "
                f"shares are to be worked out for has {model.quantization.method}"
            )
        groups[point.gpu, point.engine, _minor(point.version), point.quantization].append(point)
    return CalibrationTable(
        made=made,
        made_with=made_with,
        model=f"{model.origin}: {model.architecture.parameters:,} parameters, {model.quantization.label}",
        machine=machine,
        sources=tuple(sources),
        calibrations=tuple(_fit_group(points, model) for _, points in sorted(groups.items())),
    )


def shares_for(
    gpu: Gpu, engine: EngineSpec, quantization: str, tables: Iterable[CalibrationTable] = ()
) -> Shares:
    """The measured shares of that GPU, engine minor version and quantization, or else a prior that says so."""
    prior = prior_shares(gpu)
    minor = _minor(engine.version)
    elsewhere: dict[str, None] = {}
    for of, calibration in ((table, entry) for table in tables for entry in table.calibrations):
        if calibration.gpu != gpu.name:
            continue
        measured = (calibration.engine, calibration.minor, calibration.quantization)
        if measured == (engine.kind, minor, quantization):
            return replace(_measured(calibration, prior), file=of.file or None)
        elsewhere[" ".join(measured)] = None
    asked = f"{gpu.name} with {engine.kind} {minor} {quantization}"
    found = f"measured was {', '.join(elsewhere)}" if elsewhere else "nobody measured it"
    return replace(prior, detail=f"{asked}: {found}; {prior.detail}")


def _measured(calibration: Calibration, prior: Shares) -> Shares:
    known = {
        "decode": bool(calibration.memory or calibration.compute),
        "prefill": calibration.prefill is not None,
    }
    assumed = [name for name, measured in known.items() if not measured]
    count = f"{calibration.points} measurement{'s' if calibration.points > 1 else ''}"
    of_what = f"{calibration.gpu} with {calibration.engine} {', '.join(calibration.versions)}"
    batches = tuple(knot.batch for knot in calibration.memory)
    rest = f"; measured up to {batches[-1]:,} at once, beyond that as a prior falls" if batches else ""
    rest += f"; {' and '.join(assumed)} not measured: a prior" if assumed else ""
    others: dict[Literal["compute", "prefill"], Range | None] = {
        "compute": calibration.compute,
        "prefill": calibration.prefill,
    }
    return replace(
        prior,
        memory=_beyond(tuple((knot.batch, knot.share) for knot in calibration.memory), prior.memory),
        compute=calibration.compute or prior.compute,
        prefill=calibration.prefill or prior.prefill,
        overhead=calibration.overhead,
        evidence="calibrated",
        detail=f"{count} of {of_what} {calibration.quantization}{rest}",
        measured_batches=batches,
        measured=tuple(name for name, share in others.items() if share is not None),
    )


def _beyond(
    measured: tuple[tuple[int, Range], ...], prior: tuple[tuple[int, Range], ...]
) -> tuple[tuple[int, Range], ...]:
    """The measured shares of bandwidth, and beyond them what the prior makes of the nearest: it falls with more
    sequences as the prior does, and is as uncertain."""
    if not measured:
        return prior
    (first, _), (last, _) = measured[0], measured[-1]
    below = [batch for batch, _ in prior if batch < first] or ([1] if first > 1 else [])
    above = [batch for batch, _ in prior if batch > last] or [_FURTHER * last]
    return (
        *((batch, _carried(batch, measured[0], prior)) for batch in below),
        *measured,
        *((batch, _carried(batch, measured[-1], prior)) for batch in above),
    )


def _carried(batch: int, nearest: tuple[int, Range], prior: tuple[tuple[int, Range], ...]) -> Range:
    """The share of ``nearest`` carried to ``batch``, with at least the prior's width around it."""
    at, share = nearest
    there, here = _prior_at(batch, prior), _prior_at(at, prior)
    likely = min(1.0, share.likely * there.likely / here.likely)
    return Range(
        low=likely * min(share.low / share.likely, there.low / there.likely),
        likely=likely,
        high=min(1.0, likely * max(share.high / share.likely, there.high / there.likely)),
    )


def _prior_at(batch: int, prior: tuple[tuple[int, Range], ...]) -> Range:
    low, likely, high = (
        interpolated(tuple((at, getattr(share, name)) for at, share in prior), batch)
        for name in ("low", "likely", "high")
    )
    return Range(low=low, likely=likely, high=high)


def _fit_group(points: Sequence[Measurement], model: ModelFacts) -> Calibration:
    gpu = load_catalogue()[points[0].gpu]
    prior = prior_shares(gpu).pace("likely")
    decode = [(point, _roofline(point, model, gpu)) for point in points if point.kind == "decode"]
    prefill = [(point, _roofline(point, model, gpu)) for point in points if point.kind == "prefill"]
    reading = [(p, roof) for p, roof in decode if roof.memory_bound(prior, p.batch, p.context)]
    overhead = _overhead(reading, [*decode, *prefill], prior)
    by_batch: dict[int, list[float]] = defaultdict(list)
    compute: list[float] = []
    for point, roof in decode:
        work = roof.decode(point.batch, point.context)
        busy = _busy(point, roof, overhead, prior)
        if roof.memory_bound(prior, point.batch, point.context):
            by_batch[point.batch].append(_share(point, roof.reading(work) / busy))
        else:
            compute.append(_share(point, roof.computing(work) / busy))
    read: list[float] = []
    for point, roof in prefill:
        work = roof.prefill(point.context)
        computing = point.batch * roof.computing(work)
        if computing / prior.prefill > roof.reading(work) / prior.memory_at(1):
            read.append(_share(point, computing / _busy(point, roof, overhead, prior)))
    first = points[0]
    return Calibration(
        gpu=first.gpu,
        engine=first.engine,
        minor=_minor(first.version),
        quantization=first.quantization,
        versions=tuple(sorted({point.version for point in points})),
        tensor_parallel=tuple(sorted({point.tensor_parallel for point in points})),
        memory=tuple(
            MemoryShare(batch=batch, share=_range(shares), points=len(shares))
            for batch, shares in sorted(by_batch.items())
        ),
        compute=_range(compute) if compute else None,
        prefill=_range(read) if read else None,
        overhead=Range(low=overhead, likely=overhead, high=overhead),
        points=len(points),
        ignored=len(prefill) - len(read),
        provenance=tuple(dict.fromkeys(point.provenance for point in points)),
    )


def _roofline(point: Measurement, model: ModelFacts, gpu: Gpu) -> Roofline:
    ranks = point.tensor_parallel
    shape = model.architecture
    element = 1 if point.kv_cache_dtype == "fp8" else 2
    # With more GPUs than key-value heads, each keeps a head of its own that others have too.
    heads = max(1, shape.num_key_value_heads // ranks)
    kv_bytes = shape.kv_bytes_per_token(element) * heads // shape.num_key_value_heads
    return roofline(model, gpu, ranks, kv_bytes)


def _overhead(
    reading: Sequence[tuple[Measurement, Roofline]],
    every: Sequence[tuple[Measurement, Roofline]],
    prior: Pace,
) -> float:
    """Seconds that each step takes beside reading, exchanges aside.

    In ``time = reading / share + overhead`` each batch has a share of its own and all have one overhead, so it
    shows only where a batch was measured with several contexts: least squares, the shares eliminated (variable
    projection, Golub and Pereyra 1973). Where nothing shows it, it is the prior, or what the fastest leaves.
    """
    fastest = min(point.seconds - _exchanges(point, roof, prior) for point, roof in every)
    by_batch: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for point, roof in reading:
        seconds = point.seconds - _exchanges(point, roof, prior)
        by_batch[point.batch].append((roof.reading(roof.decode(point.batch, point.context)), seconds))
    along = leverage = 0.0
    for steps in by_batch.values():
        squares = sum(x * x for x, _ in steps)
        ones, times = sum(x for x, _ in steps), sum(x * t for x, t in steps)
        for x, t in steps:
            constant = 1 - x * ones / squares
            along += constant * (t - x * times / squares)
            leverage += constant * constant
    if leverage < _LEAST_LEVERAGE:
        return max(0.0, min(prior.overhead, fastest / 2))
    return min(max(0.0, along / leverage), max(0.0, fastest * 0.9), MOST_SECONDS)


def _exchanges(point: Measurement, roof: Roofline, prior: Pace) -> float:
    """Seconds of the step that GPUs exchange, as the prior says: no measurement of one size tells it apart."""
    if point.kind == "decode":
        work = roof.decode(point.batch, point.context)
    else:
        work = roof.prefill(point.batch * point.context)
    return roof.waiting(work, prior) - prior.overhead


def _busy(point: Measurement, roof: Roofline, overhead: float, prior: Pace) -> float:
    """Seconds in which the device worked."""
    busy = point.seconds - overhead - _exchanges(point, roof, prior)
    if busy <= 0:
        raise UsageError(
            f"{point.provenance}: {point}: {point.tokens_per_second:,.0f} tokens a second leave no time to work; "
            f"check gpu, tensor_parallel, batch and context"
        )
    return busy


def _share(point: Measurement, share: float) -> float:
    if share > _TOO_MUCH:
        raise UsageError(
            f"{point.provenance}: {point}: {point.tokens_per_second:,.0f} tokens a second are {share:.2f} times "
            f"what the device can do; check gpu, tensor_parallel, batch, context, and that it was this model"
        )
    if share < _TOO_LITTLE:
        raise UsageError(
            f"{point.provenance}: {point}: {point.tokens_per_second:g} tokens a second are {share:.1e} of what the "
            f"device can do; check gpu, tensor_parallel, batch, context, and that nothing else ran"
        )
    return min(1.0, share)


def _range(shares: Sequence[float]) -> Range:
    """The median, and as far to both sides as 95% of such measurements would lie, if they are enough to tell."""
    middle = statistics.median(shares)
    spread = _SPREAD_OF_FEW
    if len(shares) >= _FEW:
        deviation = statistics.median(abs(share - middle) for share in shares)
        spread = max(_LEAST_SPREAD, 2 * _MAD_TO_SIGMA * deviation / middle)
    return Range(
        low=max(min(_LEAST_SHARE, middle / 2), middle * (1 - spread)),
        likely=middle,
        high=min(1.0, middle * (1 + spread)),
    )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
