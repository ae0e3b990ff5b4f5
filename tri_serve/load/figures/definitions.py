"""What each figure of one request means. Everything is in ns on the record's clock; None: there is no such figure.

Two families. Ours have bare names. Those ending in ``_vllm`` follow ``vllm bench serve`` of vLLM 0.32 to the letter
(vllm/benchmarks/lib/endpoint_request_func.py and serve.py), so that its numbers and ours can be laid side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from tri_serve.load.records import Outcome, Record
from tri_serve.spec.slo import Slo

_NS = 1_000_000_000


def ttft(record: Record) -> int | None:
    """Sent → first event that bears a token (content, reasoning or a tool call)."""
    return _span(record.sent, record.first_token)


def ttft_sched(record: Record) -> int | None:
    """Due → first token: a client that was held up does not make the server look faster (coordinated omission)."""
    return _span(record.scheduled, record.first_token)


def e2e(record: Record) -> int | None:
    """Sent → last event before ``[DONE]``, the usage event included; for a whole answer its end."""
    return _span(record.sent, record.last)


def e2e_sched(record: Record) -> int | None:
    """Due → last event."""
    return _span(record.scheduled, record.last)


def tpot(record: Record) -> float | None:
    """(Last event with choices − first token) ÷ (tokens − 1), for more than one: vLLM's, from our first token."""
    end = record.last_choice or record.last
    if record.output_tokens < 2 or not record.first_token:
        return None
    return max(0, end - record.first_token) / (record.output_tokens - 1)


def icl(record: Record) -> Iterator[int]:
    """Gaps between consecutive events that bear tokens: what a reader sees (inter-chunk latency)."""
    before = 0
    for at, tokens in zip(record.event_times, record.event_tokens, strict=False):
        if tokens > 0:
            if before:
                yield at - before
            before = at


def itl(record: Record) -> Iterator[tuple[float, int]]:
    """Each such gap ÷ the tokens of the event at its end, with that number of tokens: a sample for each token."""
    before = 0
    for at, tokens in zip(record.event_times, record.event_tokens, strict=False):
        if tokens > 0:
            if before:
                yield (at - before) / tokens, tokens
            before = at


def max_gap(record: Record) -> int | None:
    """The longest such gap of the request: the pause that a reader notices."""
    return max(icl(record), default=None)


def dispatch_lag(record: Record) -> int | None:
    """Due → the client began with it. Of the client, not of the server."""
    return _span(record.scheduled, record.dispatched)


def is_good(record: Record, slo: Slo) -> bool:
    """Whether it was answered whole and kept every promise, counted from when it was due.

    Bounds on the scheduled time are MLPerf's (server scenario). One token or none has no TPOT, which keeps any.
    """
    if not record.ok:
        return False
    return (
        _within(ttft_sched(record), slo.ttft)
        and _within(e2e_sched(record), slo.e2e)
        and (tpot(record) is None or _within(tpot(record), slo.tpot))
    )


def cannot_be_good(record: Record, slo: Slo, given_up: int) -> bool:
    """Whether a request that was cancelled at ``given_up`` had broken a promise by then, however it went on.

    Its TPOT was at least what it would have been had the rest of the asked tokens come at that moment.
    """
    age, asked = given_up - record.scheduled, record.intended_output_tokens
    since = given_up - record.first_token
    return (
        not _within(ttft_sched(record) if record.first_token else age, slo.ttft)
        or not _within(age, slo.e2e)
        or (record.first_token > 0 and asked > 1 and not _within(since / (asked - 1), slo.tpot))
    )


def answered_vllm(record: Record) -> bool:
    """Whether vLLM would call it a success: status 200, an event with choices, and no exception on the way.

    It checks no more: an in-band error after a first event, a stream without a finish reason, an empty or a wrong
    answer are successes there. A stream that is cut in the middle of a chunk raises; one that just ends does not,
    and the record cannot tell them apart, so that a cut one is none here.
    """
    unknown_to_vllm = (
        Outcome.OK,
        Outcome.IN_BAND_ERROR,
        Outcome.EMPTY,
        Outcome.SHORT,
        Outcome.BAD_TEXT,
        Outcome.BAD_JSON,
    )
    return record.outcome in unknown_to_vllm and record.first_choice > 0 and record.sent > 0


def ttft_vllm(record: Record) -> int | None:
    """Sent → first event with non-empty ``choices``: in chat the role event, which bears no token."""
    return _span(record.sent, record.first_choice)


def e2el_vllm(record: Record) -> int | None:
    """Sent → last event with non-empty ``choices``.

    So in 0.32 for chat and completions alike; up to 0.29 the usage event counted in chat.
    """
    return _span(record.sent, record.last_choice)


def output_tokens_vllm(record: Record) -> int:
    """``usage.completion_tokens``; without it vLLM counts the text's tokens anew, here the events' are taken."""
    return record.output_tokens


def tpot_vllm(record: Record) -> float | None:
    """(E2EL − TTFT) ÷ (tokens − 1), for more than one token."""
    end, first, tokens = e2el_vllm(record), ttft_vllm(record), output_tokens_vllm(record)
    if end is None or first is None or tokens < 2:
        return None
    return (end - first) / (tokens - 1)


def itl_vllm(record: Record) -> Iterator[int]:
    """Gaps between consecutive events with non-empty ``choices``, one sample an event, whatever it bears."""
    times = record.event_times
    return (after - before for before, after in pairwise(times))


def is_good_vllm(record: Record, slo: Slo) -> bool:
    """vLLM's request goodput: a success whose figures are at or under each bound; without a TPOT it is 0."""
    if not answered_vllm(record):
        return False
    return (
        _within(ttft_vllm(record), slo.ttft)
        and _within(tpot_vllm(record) or 0, slo.tpot)
        and _within(e2el_vllm(record), slo.e2e)
    )


def _span(begin: int, end: int) -> int | None:
    # A first event before the request was wholly written is possible (a refusal), and is at once.
    return max(0, end - begin) if begin and end else None


def _within(ns: float | None, bound: float | None) -> bool:
    return bound is None or (ns is not None and ns <= bound * _NS)
