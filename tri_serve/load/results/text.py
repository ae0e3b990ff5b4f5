"""A result in 80 columns, for a terminal or a log."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from tri_serve.load.figures.model import Distribution, Figures, Throughput
from tri_serve.load.results.charts import tenths
from tri_serve.load.results.load_words import load_words
from tri_serve.load.results.model import RunResult, ServerSide
from tri_serve.load.verdict import SLO_SHARE, Level, Verdict

WIDTH = 80
_NO_CPU = 0.05
"""Share of the time from which on waiting for a CPU is worth a line."""
_MANY_AN_EVENT = 0.05
"""By how much tokens and events may differ without a line."""
_MEANT = {
    "ttft": "sent to first token",
    "ttft_sched": "due to first token",
    "tpot": "token to token, per request",
    "itl": "token to token, per token",
    "icl": "event to event",
    "max_gap": "longest pause of a request",
    "e2e": "sent to last event",
    "e2e_sched": "due to last event",
}
_ORDER = ("ttft", "ttft_sched", "tpot", "itl", "icl", "max_gap", "e2e", "e2e_sched")
"""As a request goes: its begin, its stream, its end."""


def report(result: RunResult) -> str:
    """The whole report; lines are at most ``WIDTH`` characters, but for addresses and names that are longer."""
    return "\n".join(_lines(result)) + "\n"


def _lines(result: RunResult) -> Iterator[str]:
    target = result.target
    yield f"{result.scenario.name} against {target.url} ({target.model})"
    load = load_words(result.scenario.resolved)
    if load:
        yield from _wrapped(load, "load: ", "      ")
    if not result.complete:
        yield f"PARTIAL: stopped before its end: {result.stopped_because or 'no reason is known'}"
    yield ""
    yield from verdict_lines(result.verdict, result.figures, complete=result.complete)
    yield from (line for words in beside(result) for line in _wrapped(words, "  ", "  "))
    yield ""
    yield from _requests(result.figures)
    yield ""
    yield from _latencies(result.figures)
    yield ""
    yield from _vllm(result.figures)
    if len(result.figures.groups) > 1:
        yield ""
        yield from _groups(result.figures)
    if result.server_side is not None:
        yield ""
        yield from _server(result.server_side)
    for remark in result.workload.remarks:
        yield from _wrapped(remark, "note: ", "      ")


def verdict_lines(verdict: Verdict, figures: Figures, *, complete: bool = True) -> Iterator[str]:
    """The verdict with what speaks against the figures, and whether the promise was kept; not ``complete``: in the
    part of the run that there is."""
    words = {
        Level.VALID: "nothing speaks against these figures",
        Level.SUSPECT: "read these figures with care",
        Level.INVALID: "these figures are not to be believed",
    }
    yield f"{verdict.level.value}: {words[verdict.level]}"
    for place, reason in enumerate(verdict.reasons):
        line = f"{reason.level.value} ({reason.cause}): {reason.said}"
        yield from _wrapped(line, "  - ", "    ")
        after = verdict.reasons[place + 1].advice if place + 1 < len(verdict.reasons) else ""
        if reason.advice != after:
            yield from _wrapped(reason.advice, "    -> ", "       ")
    if verdict.not_measured:
        yield from _wrapped(", ".join(verdict.not_measured), "  not measured: ", "    ")
    if verdict.slo:
        share = figures.goodput.share
        kept = (
            "nothing to judge it by"
            if share is None
            else f"kept by {100 * share:.1f}% of {figures.goodput.of}"
        )
        said = {True: "MET", False: "MISSED", None: "NOT JUDGED"}[verdict.slo_met]
        if not complete:
            said += " in the part that was run"
        yield from _wrapped(f"{verdict.slo}: {said}, {kept} ({SLO_SHARE:.0%} is asked)", "SLO ", "    ")


def beside(result: RunResult) -> Iterator[str]:
    """What helps to see what the load was: why a client was the limit, and where its users held back."""
    share = result.evidence.cpu_wait_share
    late = any(reason.cause == "client" for reason in result.verdict.reasons)
    if late and share is not None and share > _NO_CPU:
        yield (
            f"For {share:.0%} of the time the client was ready and had no CPU: what else runs on its machine "
            "made it late."
            + ("" if result.evidence.real_time else " It was not in the kernel's real-time class.")
        )
    pauses = result.evidence.pauses_after_failures
    if pauses:
        yield (
            f"After failures users waited {pauses:,} times, 0.1 s doubled up to 1 s, before they asked again: the "
            "load was lighter for it."
        )


def _requests(figures: Figures) -> Iterator[str]:
    outcomes = figures.outcomes
    counts = [f"{count:,} {name}" for name, count in outcomes.items() if count or name == "ok"]
    yield from _wrapped(
        f"{figures.scheduled:,} due in {figures.window_seconds:.1f} s ({figures.scheduled_rate:.2f}/s), "
        f"sent {figures.sent_rate:.2f}/s: {', '.join(counts)}",
        "requests    ",
        " " * 12,
    )
    if len(figures.replicas) > 1:
        yield from _wrapped(answered_by(figures), "by replica  ", " " * 12)
    goodput = figures.goodput
    if goodput.share is not None and goodput.per_second is not None:
        yield from _wrapped(
            f"{100 * goodput.share:.1f}% {goodput_of(figures)}, {goodput.per_second:.2f}/s",
            "goodput     ",
            " " * 12,
        )
    yield f"steady      {_rates(figures.steady)}"
    yield f"whole run   {_rates(figures.whole)}"
    tokens = figures.input_tokens
    if tokens.requests:
        yield (
            f"input       {tokens.reported:,} tokens of {tokens.intended:,} intended; "
            f"exact in {tokens.exact:,} of {tokens.requests:,} requests"
        )
    if figures.tokens_an_event is not None and abs(figures.tokens_an_event - 1) > _MANY_AN_EVENT:
        yield from _wrapped(
            f"{figures.tokens_an_event:.2f} an event that bears text: itl is of events, and tpot of tokens",
            "tokens      ",
            " " * 12,
        )
    if figures.with_replacements:
        yield from _wrapped(replacements(figures), "text        ", " " * 12)
    for detail, count in figures.failure_details.items():
        yield from _wrapped(f"{count:,} x {detail}", "failed      ", " " * 12)
    if figures.details_left_out:
        yield f"failed      {figures.details_left_out:,} x other reasons"


def goodput_of(figures: Figures) -> str:
    """What the share of goodput is of."""
    left_out = figures.scheduled - figures.goodput.of
    if left_out <= 0:
        return "of all that was due"
    return f"of {figures.goodput.of:,} of the {figures.scheduled:,} due: {left_out:,} cancelled are left out"


def answered_by(figures: Figures) -> str:
    """How many requests each replica answered, the busiest first."""
    return ", ".join(f"{name} {count:,}" for name, count in figures.replicas.items())


def replacements(figures: Figures) -> str:
    """Said of answers that hold U+FFFD and are not judged by it."""
    return (
        f"U+FFFD in {figures.with_replacements:,} answers, not counted as failed: under ignore_eos a model "
        "writes on after its end, and not always characters"
    )


def _rates(rates: Throughput) -> str:
    return (
        f"{rates.output_tokens_per_second:,.1f} output tok/s, {rates.requests_per_second:.2f} requests/s, "
        f"{rates.input_tokens_per_second:,.1f} input tok/s"
    )


def _latencies(figures: Figures) -> Iterator[str]:
    yield _head("ms")
    for name in _ORDER:
        if name in figures.latencies:
            yield _row(name, figures.latencies[name])
    meant = "; ".join(f"{name}: {_MEANT[name]}" for name in _ORDER if name in figures.latencies)
    yield from _wrapped(meant, "  ", "  ")
    if any(not it.exact for it in figures.latencies.values()):
        yield "  percentiles of large numbers of samples are of a histogram, true to 0.1%"


def _vllm(figures: Figures) -> Iterator[str]:
    yield _head("ms, as vLLM defines")
    for name, it in (
        ("ttft_vllm", figures.vllm.ttft),
        ("tpot_vllm", figures.vllm.tpot),
        ("itl_vllm", figures.vllm.itl),
        ("e2el_vllm", figures.vllm.e2el),
    ):
        yield _row(name, it)
    yield (
        f"  {figures.vllm.request_throughput:.2f} requests/s, {figures.vllm.output_throughput:,.1f} output tok/s "
        f"over {figures.vllm.duration:.1f} s"
    )


def _groups(figures: Figures) -> Iterator[str]:
    yield _head("ms, ttft_sched by part")
    for name, group in figures.groups.items():
        if "ttft_sched" in group.figures:
            yield _row(f"{name or '(none)'} {group.scheduled:,}", group.figures["ttft_sched"])
        else:
            yield f"{(name or '(none)')[:22]:<22}  none of {group.scheduled:,} answered"


def _server(server: ServerSide) -> Iterator[str]:
    if server.ttft_split:
        parts = " + ".join(f"{part.name} {tenths(part.mean_ms)}" for part in server.ttft_split)
        yield from _wrapped(f"{parts} ms", "TTFT        ", " " * 12)
    said = [
        ("KV cache", None if server.kv_use_max is None else f"{100 * server.kv_use_max:.0f}% at most"),
        ("prefix hits", None if server.prefix_hit_rate is None else f"{100 * server.prefix_hit_rate:.0f}%"),
        ("preemptions", None if server.preemptions is None else f"{server.preemptions:,}"),
        ("waiting", None if server.waiting_max is None else f"{server.waiting_max:,} at most"),
    ]
    known = ", ".join(f"{name} {value}" for name, value in said if value is not None)
    if known:
        yield from _wrapped(known, "engines     ", " " * 12)
    if server.client_tokens is not None and server.server_tokens:
        difference = server.client_tokens - server.server_tokens
        yield (
            f"tokens      {server.client_tokens:,} by the client, {server.server_tokens:,} by the engines "
            f"({100 * difference / server.server_tokens:+.2f}%)"
        )
    for line in (*server.missing, *server.restarts, *server.remarks):
        yield from _wrapped(line, "note: ", "      ")


def _head(title: str) -> str:
    return f"{title:<22}" + "".join(f"{name:>9}" for name in ("mean", "p50", "p90", "p95", "p99", "max"))


def _row(name: str, it: Distribution) -> str:
    values = (it.mean, it.p50, it.p90, it.p95, it.p99, it.max)
    return f"{name[:22]:<22}" + "".join(f"{_ms(value):>9}" for value in values)


def _ms(value: float) -> str:
    """Three decimals below 10, none from 1,000 on: as many digits as can matter."""
    digits = 3 if value < 10 else 2 if value < 100 else 1 if value < 10_000 else 0
    return f"{value:.{digits}f}"


def _wrapped(text: str, first: str, other: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=other, break_long_words=False)
