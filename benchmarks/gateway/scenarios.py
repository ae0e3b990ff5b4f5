"""The loads of our own client: each returns the raw figures of one router in one round or raises BenchmarkError."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
from dataclasses import dataclass
from time import perf_counter

from .client import BenchmarkError, Client, Expect, Tally, connect, render_request
from .machine import cpu_seconds, memory, tree

MODEL = "tri-mock"
# The role event, and [DONE]: what a chat stream has besides its tokens.
_EXTRA_EVENTS = 2
# Seconds for what takes six on an idle machine.
_PATIENCE = 40.0
_BUSY = "this machine is busy with other things"


@dataclass(frozen=True, slots=True)
class Target:
    """A router (or an engine, for the direct path) as the load sees it."""

    port: int
    key: str
    pid: int | None
    """Root of the process tree whose CPU and memory count; none for the direct path."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each load. The defaults keep the whole comparison under nine minutes."""

    request_connections: int = 64
    request_warm_up_seconds: int = 1
    request_seconds: int = 4
    """Whole seconds: wrk knows no others."""
    light_seconds: float = 2.5
    stream_count: int = 256
    stream_tokens: int = 64
    stream_itl_ms: float = 20.0
    stream_seconds: float = 2.0
    ttft_connections: int = 8
    ttft_seconds: float = 1.2
    memory_streams: int = 2048
    memory_itl_ms: float = 150.0
    memory_tokens: int = 12


def chat_body(*, tokens: int, stream: bool, itl_ms: float | None = None) -> bytes:
    """A chat request of about one kilobyte, Korean and English."""
    system = (
        "You are a helpful assistant. Answer in the language of the question, briefly and correctly. " * 4
    )
    question = "서울의 가을 날씨와 여행하기 좋은 곳을 알려 주세요. 그리고 그 까닭도 짧게 설명해 주세요. " * 3
    value: dict[str, object] = {
        "model": MODEL,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": question}],
        "max_tokens": tokens,
        "temperature": 0.7,
        "stream": stream,
    }
    if itl_ms is not None:
        value["mock"] = f"itl-ms={itl_ms:g}"
    return json.dumps(value, ensure_ascii=False).encode()


async def requests_light(target: Target, sizes: Sizes) -> dict[str, float]:
    """Small non-streaming chats, as many as client and mock engines can: the router idles for half the time."""
    request = render_request(
        "/v1/chat/completions", f"127.0.0.1:{target.port}", target.key, chat_body(tokens=16, stream=False)
    )
    tally = Tally()
    expect = Expect(contains=b'"completion_tokens":16')
    loop_on = Switch()
    clients = await connect(target.port, sizes.request_connections, request, expect, tally, loop_on)
    for client in clients:
        client.send()
    figures = await _window(target, tally, sizes.light_seconds)
    await _stop(loop_on, clients, tally)
    return {**figures, "requests_light_per_cpu_second": figures["responses"] / figures["cpu_seconds"]}


async def chunks(target: Target, sizes: Sizes) -> dict[str, float]:
    """Paced streams below saturation: SSE events per second of router CPU."""
    body = chat_body(tokens=sizes.stream_tokens, stream=True, itl_ms=sizes.stream_itl_ms)
    request = render_request("/v1/chat/completions", f"127.0.0.1:{target.port}", target.key, body)
    tally = Tally()
    loop_on = Switch()
    expect = Expect(events=sizes.stream_tokens + _EXTRA_EVENTS)
    clients = await connect(target.port, sizes.stream_count, request, expect, tally, loop_on)
    await _spread(clients, sizes.stream_tokens * sizes.stream_itl_ms / 1e3 / 4)
    figures = await _window(target, tally, sizes.stream_seconds)
    await _stop(loop_on, clients, tally)
    return {**figures, "chunks_per_cpu_second": figures["events"] / figures["cpu_seconds"]}


async def ttft(target: Target, sizes: Sizes) -> dict[str, float]:
    """Short streams with pauses between them: milliseconds to the first event when nothing is saturated."""
    request = render_request(
        "/v1/chat/completions", f"127.0.0.1:{target.port}", target.key, chat_body(tokens=2, stream=True)
    )
    tally = Tally()
    rng = random.Random(7)
    loop = asyncio.get_running_loop()
    loop_on = Switch(lambda client: loop.call_later(rng.uniform(0.005, 0.020), client.send))
    clients = await connect(
        target.port, sizes.ttft_connections, request, Expect(events=2 + _EXTRA_EVENTS), tally, loop_on
    )
    await _spread(clients, 0.02)
    await asyncio.sleep(0.2)
    tally.first_token.clear()
    await asyncio.sleep(sizes.ttft_seconds)
    samples = sorted(tally.first_token)
    _check(tally)
    if len(samples) < 10:
        raise BenchmarkError(f"{len(samples)} answers in {sizes.ttft_seconds:g} s: {_BUSY}")
    await _stop(loop_on, clients, tally)
    return {
        "samples": len(samples),
        "ttft_p50_ms": statistics.median(samples) * 1e3,
        "ttft_p90_ms": samples[int(len(samples) * 0.9)] * 1e3,
        "ttft_p99_ms": samples[int(len(samples) * 0.99)] * 1e3,
    }


async def memory_growth(target: Target, sizes: Sizes) -> dict[str, float]:
    """Many running streams on a fresh router: bytes for each, and bytes for each token that it relays."""
    assert target.pid is not None
    # Long enough to outlive the measurement on the slowest machine; the load leaves before the end.
    span = int(2 * _PATIENCE / (sizes.memory_itl_ms / 1e3))
    body = chat_body(tokens=span, stream=True, itl_ms=sizes.memory_itl_ms)
    request = render_request("/v1/chat/completions", f"127.0.0.1:{target.port}", target.key, body)
    pids = tree(target.pid)
    before = memory(pids)
    tally = Tally()
    loop_on = Switch()
    clients = await connect(
        target.port, sizes.memory_streams, request, Expect(events=span + _EXTRA_EVENTS), tally, loop_on
    )
    begun = perf_counter()
    for start in range(0, len(clients), 32):
        for client in clients[start : start + 32]:
            client.send()
        await asyncio.sleep(0.01)
    # Read at a count of events and not at a time, so that a busy machine shifts nothing.
    early_events = await _reached(tally, len(clients), 5, begun)
    early = memory(pids)
    late_events = await _reached(tally, len(clients), 5 + sizes.memory_tokens, begun)
    late = memory(pids)
    if tally.responses:
        raise BenchmarkError(f"{tally.responses} streams ended before memory was read")
    await _stop(loop_on, clients, tally)
    streams = len(clients)
    return {
        "streams": streams,
        "base_rss_mib": before.rss / 2**20,
        "rss_bytes_per_stream": (early.rss - before.rss) / streams,
        "pss_bytes_per_stream": (early.pss - before.pss) / streams,
        "tokens_per_stream_between": (late_events - early_events) / streams,
        "pss_bytes_per_token": (late.pss - early.pss) / max(1, late_events - early_events),
        "pss_bytes_per_stream_late": (late.pss - before.pss) / streams,
    }


class Switch:
    """What follows a response: another request, until it is switched off."""

    def __init__(self, follow: object = None) -> None:
        self.on = True
        self._follow = follow

    def __call__(self, client: Client) -> None:
        if not self.on:
            return
        if callable(self._follow):
            self._follow(client)
        else:
            client.send()


async def _reached(tally: Tally, streams: int, each: int, begun: float) -> int:
    """Wait until every stream runs and they have relayed so many events each, on average; returns the sum."""
    while tally.started < streams or tally.events < streams * each:
        if perf_counter() - begun > _PATIENCE or tally.errors:
            seen = f"{tally.started} of {streams} streams began, {tally.events / streams:.1f} of {each} events each"
            raise BenchmarkError(f"{seen}; {tally.errors[:3]}")
        await asyncio.sleep(0.02)
    return tally.events


async def _spread(clients: list[Client], seconds: float) -> None:
    """Begin one after another, so that streams do not tick in step."""
    for client in clients:
        client.send()
        await asyncio.sleep(seconds / len(clients))


async def _window(target: Target, tally: Tally, seconds: float) -> dict[str, float]:
    await asyncio.sleep(0.3)
    pids = tree(target.pid) if target.pid is not None else []
    cpu, responses, events, begun = cpu_seconds(pids), tally.responses, tally.events, perf_counter()
    await asyncio.sleep(seconds)
    used = cpu_seconds(pids) - cpu
    wall = perf_counter() - begun
    _check(tally)
    if pids and (used <= 0 or tally.responses + tally.events == responses + events):
        raise BenchmarkError(f"nothing was relayed in {wall:.1f} s: {_BUSY}")
    return {
        "responses": tally.responses - responses,
        "events": tally.events - events,
        "wall_seconds": wall,
        "cpu_seconds": used,
        "cpu_share": used / wall,
    }


async def _stop(loop_on: Switch, clients: list[Client], tally: Tally) -> None:
    loop_on.on = False
    for client in clients:
        client.close()
    await asyncio.sleep(0.05)
    _check(tally)


def _check(tally: Tally) -> None:
    if tally.errors:
        raise BenchmarkError(f"{len(tally.errors)} wrong responses, the first: {tally.errors[0]}")
