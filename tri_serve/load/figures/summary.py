"""From what was collected to the figures that are reported."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np

from tri_serve.load.figures.collector import Collector
from tri_serve.load.figures.model import (
    Distribution,
    Figures,
    Goodput,
    GroupFigures,
    Slot,
    Throughput,
    TokenCounts,
    VllmFigures,
)
from tri_serve.load.figures.tallies import GroupTally, TokenTally, VllmTally
from tri_serve.load.records import Outcome

_NS = 1_000_000_000
_MOST_DETAILS = 12
"""Lines of what was wrong that a report shows."""
NOT_FAILED = frozenset({Outcome.OK.value, Outcome.UNSENT.value, Outcome.CANCELLED.value})
"""Outcomes that the server has no part in, and the good one."""


def summarise(collector: Collector) -> Figures:
    """The figures of a run, or of as much of it as there is so far."""
    window_seconds, run = _window_seconds(collector), collector.run
    outcomes = {outcome.value: collector.outcomes[outcome.value] for outcome in Outcome}
    scheduled = sum(outcomes.values())
    failed = sum(count for name, count in outcomes.items() if name not in NOT_FAILED)
    answered = outcomes[Outcome.OK.value]
    details = collector.details.most_common(_MOST_DETAILS)
    shown = sum(count for _, count in details)
    unsent = outcomes[Outcome.UNSENT.value]
    return Figures(
        window_seconds=window_seconds,
        slot_seconds=collector.window.slot_ns / _NS,
        scheduled=scheduled,
        outcomes=outcomes,
        failed=failed,
        failure_share=failed / (failed + answered) if failed + answered else None,
        failure_details=dict(details),
        details_left_out=collector.details.total() + collector.details_left_out - shown,
        scheduled_rate=_rate(scheduled, window_seconds),
        sent_rate=_rate(scheduled - unsent, window_seconds),
        goodput=_goodput(collector.groups.values(), window_seconds),
        steady=_steady(collector, window_seconds),
        whole=_whole(collector),
        latencies={name: it.distribution() for name, it in collector.latencies.items() if it.count},
        vllm=_vllm(collector),
        input_tokens=_tokens(collector.input_tokens),
        output_tokens=_tokens(collector.output_tokens),
        tokens_an_event=run.usage_tokens / run.event_tokens if run.event_tokens else None,
        cached_tokens=collector.run.cached_tokens,
        with_replacements=collector.run.with_replacements,
        groups={name: _group(group, window_seconds) for name, group in sorted(collector.groups.items())},
        slots=_slots(collector),
        reused_connections=collector.run.reused,
        replicas=dict(collector.replicas.most_common()),
    )


def histograms(collector: Collector) -> dict[str, str]:
    """Latencies by name, encoded, for a result: ours, and vLLM's with ``_vllm`` behind the name."""
    ours = {name: it.histogram.encode() for name, it in collector.latencies.items() if it.count}
    theirs = {
        f"{name}_vllm": it.histogram.encode() for name, it in collector.vllm.latencies.items() if it.count
    }
    return ours | theirs


def _window_seconds(collector: Collector) -> float:
    """As long as the window went."""
    return (collector.until - collector.window.start) / _NS


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _goodput(groups: Iterable[GroupTally], seconds: float) -> Goodput:
    good = of = 0
    for group in groups:
        good += group.good
        of += group.outcomes.total() - group.outcomes[Outcome.CANCELLED.value] + group.too_late
    return Goodput(
        good=good, of=of, share=good / of if of else None, per_second=good / seconds if seconds > 0 else None
    )


def _steady(collector: Collector, seconds: float) -> Throughput:
    run = collector.run
    requests, output, inputs = float(run.completed_in_window), run.output_tokens, float(run.input_tokens)
    if collector.ended is not None:
        slots = list(collector.series.until(collector.ended))
        if slots:
            # What came later in the slot in which the run was stopped cannot be told apart from what came before.
            seconds = (collector.ended - collector.window.start) // collector.window.slot_ns
            seconds *= collector.window.slot_ns / _NS
            requests = float(sum(slot.completed for slot in slots))
            output = sum(slot.output_tokens for slot in slots)
            inputs = float(sum(slot.input_tokens for slot in slots))
    return Throughput(
        seconds=seconds,
        requests_per_second=_rate(requests, seconds),
        output_tokens_per_second=_rate(output, seconds),
        input_tokens_per_second=_rate(inputs, seconds),
    )


def _whole(collector: Collector) -> Throughput:
    run = collector.run
    seconds = max(0, run.last_completion - run.first_dispatch) / _NS
    return Throughput(
        seconds=seconds,
        requests_per_second=_rate(run.answered, seconds),
        output_tokens_per_second=_rate(run.answered_output_tokens, seconds),
        input_tokens_per_second=_rate(run.answered_input_tokens, seconds),
    )


def _tokens(tally: TokenTally) -> TokenCounts:
    return TokenCounts(**tally.to_message())


def _group(group: GroupTally, seconds: float) -> GroupFigures:
    return GroupFigures(
        scheduled=group.outcomes.total(),
        outcomes=dict(group.outcomes),
        goodput=_goodput((group,), seconds),
        output_tokens=group.output_tokens,
        figures={name: it.distribution() for name, it in group.latencies.items() if it.count},
    )


def _vllm(collector: Collector) -> VllmFigures:
    tally, slo = collector.vllm, collector.slo
    # vLLM's clock starts before the gap ahead of its first request, as the window does.
    seconds = max(0, tally.last_completion - collector.window.start) / _NS
    most_tokens, most_open = _peaks(tally) or _slot_peaks(collector)
    found: dict[Literal["ttft", "tpot", "itl", "e2el"], Distribution] = {
        "ttft": tally.latencies["ttft"].distribution(),
        "tpot": tally.latencies["tpot"].distribution(),
        "itl": tally.latencies["itl"].distribution(),
        "e2el": tally.latencies["e2el"].distribution(),
    }
    promised = any(bound is not None for bound in (slo.ttft, slo.tpot, slo.e2e))
    return VllmFigures(
        duration=seconds,
        completed=tally.completed,
        failed=tally.failed,
        total_input_tokens=tally.input_tokens,
        total_output_tokens=tally.output_tokens,
        request_throughput=_rate(tally.completed, seconds),
        request_goodput=_rate(tally.good, seconds) if promised else None,
        output_throughput=_rate(tally.output_tokens, seconds),
        total_token_throughput=_rate(tally.input_tokens + tally.output_tokens, seconds),
        max_output_tokens_per_s=most_tokens,
        max_concurrent_requests=most_open,
        **found,
    )


def _peaks(tally: VllmTally) -> tuple[float, int] | None:
    """vLLM's peaks: seconds are counted from the first start. None where single times were not kept."""
    if tally.spans is None or tally.events is None:
        return None
    if not tally.spans:
        return 0.0, 0
    spans = np.asarray(tally.spans, dtype=np.int64).reshape(-1, 2)
    begin = spans[:, 0].min()
    seconds = (spans - begin) // _NS
    change = np.zeros(int(seconds.max()) + 2, dtype=np.int64)
    np.add.at(change, seconds[:, 0], 1)
    np.add.at(change, seconds[:, 1] + 1, -1)
    events = np.bincount((np.asarray(tally.events, dtype=np.int64) - begin) // _NS)
    return float(events.max()) if len(events) else 0.0, int(np.cumsum(change).max())


def _slot_peaks(collector: Collector) -> tuple[float, int]:
    """The same by slots, which begin with the window and not with the first request, over all phases."""
    slots = [slot for number, slot in collector.series.items() if number >= 0]
    most = max((slot.events for slot in slots), default=0) * _NS / collector.window.slot_ns
    return most, max((slot.touched for slot in slots), default=0)


def _slots(collector: Collector) -> tuple[Slot, ...]:
    width = collector.window.slot_ns
    return tuple(
        Slot(
            at=number * width / _NS,
            scheduled=slot.scheduled,
            sent=slot.sent,
            completed=slot.completed,
            failed=slot.failed,
            unsent=slot.unsent,
            output_tokens=math.floor(slot.output_tokens + 0.5),
            open=slot.open_ns / width,
            ttft_p50=slot.ttft_ms(50),
            ttft_p99=slot.ttft_ms(99),
        )
        for number, slot in collector.series.items()
    )
