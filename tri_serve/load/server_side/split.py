"""Where the time to the first token went: client → gateway → engine's queue → prefill.

Means are split, since they add up; percentiles do not.
"""

from __future__ import annotations

from itertools import pairwise

from tri_serve.load.results.model import TtftPart
from tri_serve.load.server_side.page import Buckets
from tri_serve.observe import names

FEWER = 0.9
"""Two sources are of different requests if one counted less than this share of the other's."""


def split_ttft(
    client: float,
    gateway: float | None,
    engine: float | None,
    queue: float | None,
    prefill: float | None,
) -> tuple[TtftPart, ...]:
    """Mean milliseconds to the first token as each saw it, from the outside in, and the parts between them.

    The parts add up to ``client``. What nobody inside measured stays in the part around it: without a gateway the
    client's part ends at the engine, without engines the gateway's holds them. A part can come out below 0 where
    two sources are not of the same requests.
    """
    seen = [("client", client, "the client's ttft")]
    if gateway is not None:
        seen.append(("gateway", gateway, names.FIRST_EVENT_SECONDS.name))
    if engine is not None:
        seen.append(("rest", engine, names.ENGINE_FIRST_TOKEN_SECONDS.name))
    parts = []
    for (name, outer, source), (_, inner, within) in pairwise(seen):
        parts.append(_part(name, outer - inner, f"{source} − {within}"))
    name, innermost, source = seen[-1]
    inside = [
        ("queue", queue, names.ENGINE_QUEUE_SECONDS),
        ("prefill", prefill, names.ENGINE_PREFILL_SECONDS),
    ]
    told = [(part, mean, metric.name) for part, mean, metric in inside if mean is not None]
    if engine is None or not told:
        return (*parts, _part(name, innermost, source))
    parts += [_part(part, mean, metric) for part, mean, metric in told]
    left = innermost - sum(mean for _, mean, _ in told)
    return (*parts, _part("rest", left, f"{source} − {' − '.join(metric for _, _, metric in told)}"))


def _part(name: str, mean_ms: float, source: str) -> TtftPart:
    return TtftPart.model_validate({"name": name, "mean_ms": mean_ms, "source": source})


def doubts(client_requests: int, counted: dict[str, Buckets | None]) -> tuple[str, ...]:
    """What speaks against subtracting one mean from another: sources that counted other numbers of requests."""
    others: dict[int, list[str]] = {}
    for who, samples in counted.items():
        count = 0 if samples is None else round(samples.count)
        if count and min(count, client_requests) < FEWER * max(count, client_requests):
            others.setdefault(count, []).append(who)
    return tuple(
        f"ttft split: {' and '.join(who)} {'are means' if len(who) > 1 else 'is the mean'} of {count} requests, "
        f"the client's of {client_requests}; the parts are of different requests as far as these differ"
        for count, who in others.items()
    )
