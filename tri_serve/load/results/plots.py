"""Which charts a result is shown in."""

from __future__ import annotations

from collections.abc import Sequence

from tri_serve.load.figures.histogram import Histogram
from tri_serve.load.figures.model import Figures
from tri_serve.load.results.charts import Chart, Point, Series, draw
from tri_serve.load.results.model import RunResult

_SHARES = (*range(100), 99.5, 99.9, 100)
"""Percentiles that a distribution is drawn through."""


def charts(result: RunResult, others: Sequence[RunResult] = ()) -> list[str]:
    """``figure`` elements, in the order of a page. ``others``: runs to lay beside, such as those at other rates."""
    drawn = [
        _distributions(
            result,
            ("ttft", "ttft_sched", "ttft_vllm"),
            "Time to first token",
            "Share of requests at or below a time. ttft_sched counts from when a request was due.",
        ),
        _distributions(
            result,
            ("tpot", "itl", "max_gap"),
            "Time between tokens",
            "tpot: mean of a request. itl: of single tokens. max_gap: the longest pause of a request.",
        ),
        _distributions(
            result,
            ("e2e", "e2e_sched"),
            "Whole answers",
            "Share of requests that had ended by then. e2e_sched counts from when a request was due.",
        ),
        _ttft_over_time(result.figures),
        _tokens_over_time(result.figures),
        _open_over_time(result.figures),
        *_against_latency(result, others),
    ]
    if any(slot.failed or slot.unsent for slot in result.figures.slots):
        drawn.append(_failures_over_time(result.figures))
    return [draw(chart) for chart in drawn]


def _distributions(result: RunResult, names: Sequence[str], title: str, note: str) -> Chart:
    series = []
    for style, name in enumerate(names, start=1):
        if name in result.histograms:
            values = Histogram.decode(result.histograms[name]).percentiles(_SHARES)
            points = [(value / 1e6, float(share)) for value, share in zip(values, _SHARES, strict=True)]
            series.append(Series(name, [point for point in points if point[0] > 0], style))
    return Chart(title, note, "ms", "% of samples", series, log_x=True, y_top=100.0)


def _outside(figures: Figures) -> tuple[Point, ...]:
    """What lies before and after the window."""
    times = [slot.at for slot in figures.slots]
    before, after = min(times, default=0.0), max(times, default=0.0) + figures.slot_seconds
    spans = ((before, 0.0), (figures.window_seconds, after))
    return tuple((begin, end) for begin, end in spans if end > begin)


def _ttft_over_time(figures: Figures) -> Chart:
    slots = [slot for slot in figures.slots if slot.ttft_p50 is not None]
    return Chart(
        "TTFT over time",
        "Of the requests due in each slot, from when they were due. Shaded: not counted (warm-up, the end).",
        "seconds from the window's begin",
        "ms",
        [
            Series("median", [(slot.at, slot.ttft_p50 or 0.0) for slot in slots], 1),
            Series("p99", [(slot.at, slot.ttft_p99 or 0.0) for slot in slots], 2),
        ],
        shaded=_outside(figures),
    )


def _tokens_over_time(figures: Figures) -> Chart:
    width = figures.slot_seconds
    return Chart(
        "Output tokens a second",
        "By the time of each token's event. It falls where the last requests end.",
        "seconds from the window's begin",
        "tok/s",
        [Series("output", [(slot.at, slot.output_tokens / width) for slot in figures.slots], 1)],
        shaded=_outside(figures),
    )


def _open_over_time(figures: Figures) -> Chart:
    return Chart(
        "Open requests",
        "On average in each slot. Under an even load, a line that climbs is a queue that grows.",
        "seconds from the window's begin",
        "requests",
        [Series("open", [(slot.at, slot.open) for slot in figures.slots], 1)],
        shaded=_outside(figures),
    )


def _against_latency(result: RunResult, others: Sequence[RunResult]) -> list[Chart]:
    """None of a single point, which lies against nothing."""
    if others:
        runs = sorted((result, *others), key=lambda run: run.figures.steady.output_tokens_per_second)
        runs = [run for run in runs if "ttft_sched" in run.figures.latencies]
        labels = [f"{run.run}: {run.figures.scheduled_rate:.2f} requests/s" for run in runs]
        series = []
        for style, name in ((1, "p50"), (2, "p99")):
            points = [
                (
                    run.figures.steady.output_tokens_per_second,
                    getattr(run.figures.latencies["ttft_sched"], name),
                )
                for run in runs
            ]
            series += [Series(name, points, style, marks=True, labels=labels)]
        note = "One point a run: its steady throughput and its TTFT from when requests were due."
    else:
        figures = result.figures
        slots = [
            slot
            for slot in figures.slots
            if slot.ttft_p50 is not None and 0 <= slot.at < figures.window_seconds
        ]
        points = [(slot.output_tokens / figures.slot_seconds, slot.ttft_p50 or 0.0) for slot in slots]
        labels = [f"{slot.at:g} s" for slot in slots]
        series = [Series("slots of the window", points, 1, marks=True, labels=labels)]
        note = "One point a slot of the window: its throughput and its median TTFT."
    if all(len(it.points) < 2 for it in series):
        return []
    return [Chart("Throughput against latency", note, "output tok/s", "TTFT, ms", series)]


def _failures_over_time(figures: Figures) -> Chart:
    slots = figures.slots
    return Chart(
        "Failed and unsent requests",
        "In each slot. Unsent: the client could not send it.",
        "seconds from the window's begin",
        "requests",
        [
            Series("failed", [(slot.at, float(slot.failed)) for slot in slots], 4),
            Series("unsent", [(slot.at, float(slot.unsent)) for slot in slots], 3),
        ],
        shaded=_outside(figures),
        bars=True,
    )
