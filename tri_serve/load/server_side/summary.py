"""What gateway and engines say of a run's window, beside what its client says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tri_serve.load.results.model import EngineSide, GatewaySide, ServerSide, TtftPart
from tri_serve.load.server_side.changes import Change, Span, change, milliseconds, together, whole
from tri_serve.load.server_side.page import Buckets
from tri_serve.load.server_side.scrape import History, Source
from tri_serve.load.server_side.split import doubts, split_ttft
from tri_serve.observe import names
from tri_serve.observe.names import Metric

MOST_TOKEN_DIFFERENCE = 0.01
"""Of the servers' tokens. A stream that is cancelled at the end loses a few; more has another cause."""


@dataclass(frozen=True, slots=True)
class ClientSide:
    """What the client measured."""

    ttft_mean_ms: float | None
    """From sent to first token, of the window's requests."""
    ttft_count: int
    """How many requests that mean is of."""
    output_tokens: int
    """Of every request of the whole run, warm-up, cool-down, failed and cancelled ones included."""
    cancelled: int = 0
    """Requests that were ended before their answer was, of the whole run."""


def counted_span(history: History, window: Span, *, warm_up: bool, cool_down: bool) -> Span:
    """The time whose counts are to be of the window's requests.

    Without a warm-up nothing was counted before the window; without a cool-down whatever the servers still count
    after it is of its requests. The last snapshot must then be of after the last answer.
    """
    run = whole(history)
    return Span(window.begin if warm_up else run.begin, window.end if cool_down else run.end)


def describe(history: History, span: Span, client: ClientSide) -> ServerSide | None:
    """``span`` is what ``counted_span`` says; tokens are compared over the whole run. None: nothing was read."""
    engines = {source.name: change(history, source.name, span) for source in _of(history, "engine")}
    gateways = {source.name: change(history, source.name, span) for source in _of(history, "gateway")}
    answering = {name: one for name, one in engines.items() if one is not None}
    gateway = next((one for one in gateways.values() if one is not None), None)
    read = [
        str(source) for source in history.sources if source.name in answering or gateways.get(source.name)
    ]
    if not read:
        return None
    split, remarks = _split(
        client, gateway, list(answering.values()), all_told=len(answering) == len(engines)
    )
    tokens = _tokens(history)
    usage = [value for one in answering.values() for value in one.gauge(names.ENGINE_KV_USAGE, _mean)]
    queries = _sum(one.counted(names.ENGINE_PREFIX_QUERIES) for one in answering.values())
    hits = _sum(one.counted(names.ENGINE_PREFIX_HITS) for one in answering.values())
    return ServerSide(
        sources=tuple(read),
        missing=_missing(history),
        ttft_split=split,
        kv_use_mean=_mean(usage) if usage else None,
        kv_use_max=max(usage, default=None),
        prefix_hit_rate=hits / queries if queries and hits is not None else None,
        preemptions=_sum(one.counted(names.ENGINE_PREEMPTIONS) for one in answering.values()),
        running_max=_most_at_once(history, span, list(answering), names.ENGINE_RUNNING),
        waiting_max=_most_at_once(history, span, list(answering), names.ENGINE_WAITING),
        client_tokens=client.output_tokens if tokens is not None else None,
        server_tokens=tokens,
        restarts=tuple(name for _, name in history.restarts),
        gateway=_gateway(gateway) if gateway is not None else None,
        engines=tuple(_engine(history, name, one) for name, one in answering.items()),
        remarks=(*remarks, *_token_remarks(client, tokens)),
    )


def engine_ttft_ms(history: History, span: Span) -> float | None:
    """Mean TTFT by the engines' own histograms; None unless every engine tells it."""
    samples = _engine_histogram(history, span, names.ENGINE_FIRST_TOKEN_SECONDS)
    return milliseconds(samples, lambda one: one.mean)


def ttft_drift_ms(history: History, window: Span, client_halves_ms: tuple[float, float]) -> float | None:
    """How much client minus server grew from the window's first half to its second.

    A client that cannot keep up falls behind the server as the load goes on; what the network takes stays the same.
    """
    halves = [engine_ttft_ms(history, half) for half in window.halves]
    if halves[0] is None or halves[1] is None:
        return None
    return (client_halves_ms[1] - halves[1]) - (client_halves_ms[0] - halves[0])


def _of(history: History, kind: str) -> list[Source]:
    return [source for source in history.sources if source.kind == kind]


def _engine_histogram(history: History, span: Span, metric: Metric) -> Buckets | None:
    changes = [change(history, source.name, span) for source in _of(history, "engine")]
    if not changes or any(one is None for one in changes):
        return None
    return together([one.histogram(metric) for one in changes if one is not None])


def _split(
    client: ClientSide, gateway: Change | None, engines: list[Change], *, all_told: bool
) -> tuple[tuple[TtftPart, ...], tuple[str, ...]]:
    if client.ttft_mean_ms is None:
        return (), ()
    # Of some engines alone, nothing can be said about what the clients of all of them saw.
    inside = engines if all_told else []
    first, queue, prefill = (
        together([one.histogram(metric) for one in inside])
        for metric in (
            names.ENGINE_FIRST_TOKEN_SECONDS,
            names.ENGINE_QUEUE_SECONDS,
            names.ENGINE_PREFILL_SECONDS,
        )
    )
    event = gateway.histogram(names.FIRST_EVENT_SECONDS) if gateway is not None else None
    if event is None and first is None:
        return (), ()
    means = [milliseconds(samples, lambda one: one.mean) for samples in (event, first, queue, prefill)]
    counted = {"the gateway's": event, "the engines'": first, "the engines' queue and prefill": queue}
    return split_ttft(client.ttft_mean_ms, *means), doubts(client.ttft_count, counted)


def _tokens(history: History) -> int | None:
    """Generated in the whole run by all engines; None unless every engine tells it."""
    changes = [change(history, source.name, whole(history)) for source in _of(history, "engine")]
    counts = [one.counted(names.ENGINE_TOKENS) if one is not None else None for one in changes]
    return None if None in counts else _sum(counts)


def _token_remarks(client: ClientSide, tokens: int | None) -> tuple[str, ...]:
    if tokens is None:
        return ()
    difference = tokens - client.output_tokens
    share = abs(difference) / max(tokens, client.output_tokens, 1)
    if share <= MOST_TOKEN_DIFFERENCE:
        return ()
    told = (
        f"the engines generated {tokens:,} tokens, the client received {client.output_tokens:,} "
        f"({abs(difference):,}, {share:.1%} apart)"
    )
    if difference < 0:
        return (f"{told}: an engine that was not read answered too, or what it counted was lost as it ended",)
    ended = f"{client.cancelled} requests were ended before their answers, or " if client.cancelled else ""
    return (f"{told}: {ended}somebody else was using them, or answers were lost on the way",)


def _missing(history: History) -> tuple[str, ...]:
    named = {source.name: str(source) for source in history.sources}
    return tuple(
        f"{named[name]}: {count} of {history.rounds} times, lastly: {reason}"
        for name, (count, reason) in history.failures.items()
    )


def _most_at_once(history: History, span: Span, engines: list[str], metric: Metric) -> int | None:
    sums = []
    for one in history.snapshots:
        if span.begin <= one.at <= span.end:
            pages = [one.pages[name] for name in engines if name in one.pages]
            values = [page.gauges[metric.name] for page in pages if metric.name in page.gauges]
            if values:
                sums.append(round(sum(map(sum, values))))
    return max(sums, default=None)


def _engine(history: History, name: str, one: Change) -> EngineSide:
    queries, hits = one.counted(names.ENGINE_PREFIX_QUERIES), one.counted(names.ENGINE_PREFIX_HITS)
    running, waiting = (one.gauge(metric, sum) for metric in (names.ENGINE_RUNNING, names.ENGINE_WAITING))
    return EngineSide(
        name=name,
        output_tokens=one.counted(names.ENGINE_TOKENS),
        requests=one.counted(names.ENGINE_FINISHED),
        ttft_mean_ms=one.mean_ms(names.ENGINE_FIRST_TOKEN_SECONDS),
        ttft_p99_ms=one.p99_ms(names.ENGINE_FIRST_TOKEN_SECONDS),
        queue_mean_ms=one.mean_ms(names.ENGINE_QUEUE_SECONDS),
        prefill_mean_ms=one.mean_ms(names.ENGINE_PREFILL_SECONDS),
        kv_use_max=max(one.gauge(names.ENGINE_KV_USAGE, _mean), default=None),
        prefix_hit_rate=hits / queries if queries and hits is not None else None,
        preemptions=one.counted(names.ENGINE_PREEMPTIONS),
        running_max=round(max(running)) if running else None,
        waiting_max=round(max(waiting)) if waiting else None,
        restarts=sum(1 for _, restarted in history.restarts if restarted == name),
    )


def _gateway(one: Change) -> GatewaySide:
    lag = one.gauge(names.LOOP_LAG, max)
    return GatewaySide(
        first_event_mean_ms=one.mean_ms(names.FIRST_EVENT_SECONDS),
        first_event_p99_ms=one.p99_ms(names.FIRST_EVENT_SECONDS),
        # A counter with labels that never counted is not on the page.
        retries=one.counted(names.RETRIES) or 0,
        engine_failures=one.counted(names.ENGINE_FAILURES) or 0,
        stream_failures=one.counted(names.STREAM_FAILURES) or 0,
        refusals=one.counted(names.REFUSALS) or 0,
        loop_lag_max_ms=max(lag) * 1_000 if lag else None,
    )


def _sum(values: Iterable[int | None]) -> int | None:
    """Of those that are told; None if none is."""
    told = [value for value in values if value is not None]
    return sum(told) if told else None


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
