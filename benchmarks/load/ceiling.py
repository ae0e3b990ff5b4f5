"""``python -m benchmarks.load.ceiling``: events a second that one core of the client takes, and its memory.

Two loads on canned bytes, the server a process of its own on another core:

- ``events``: streams whose events come one by one on a timetable, at rising rates. The figure is events divided by
  the client's CPU seconds, all of its work included (connecting, reading, parsing, checking, collecting). A client
  that is too slow finds several events in one read, which is cheaper, so the share of reads with one event is told.
- ``memory``: short answers one after the other on a few connections, each with a record that is collected; resident
  memory at each tenth of the way.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import gevent
from gevent.pool import Pool

from benchmarks.gateway.machine import facts, raise_descriptor_limit, split_cores
from benchmarks.load.replay import END, MODEL, Replay, Step, chat_script
from tri_serve.load.checks import judge
from tri_serve.load.figures.collector import Collector, Window
from tri_serve.load.records import Record
from tri_serve.load.wire.client import Client
from tri_serve.load.wire.target import parse_target
from tri_serve.load.workload.items import Check, Item
from tri_serve.spec.slo import Slo

PROMISED_EVENTS = 50_000
"""Events a second for each core."""
_GAP = 0.02
"""Seconds between the events of one stream: 50 tokens a second, as a fast engine writes."""
_TOKENS = 64


def _item(tokens: int) -> Item:
    body = {"messages": [{"role": "user", "content": "x " * 200}], "max_tokens": tokens, "ignore_eos": True}
    return Item("x", "written", "/v1/chat/completions", body, 16, tokens, Check(exact_tokens=tokens))


def _collector(seconds: float) -> Collector:
    start = time.perf_counter_ns()
    return Collector(Window(start=start, end=start + int(seconds * 1e9)), Slo(ttft=0.5, tpot=0.05))


def _ask(client: Client, item: Item, record: Record, collector: Collector) -> None:
    answer = client.ask(item, record)
    judge(record, item, answer)
    collector.add(record)


def measure_events(rate: float, seconds: float) -> dict[str, Any]:
    """Streams enough for ``rate`` events a second, over and over for ``seconds``."""
    streams = max(1, round(rate * _GAP))
    own, others = split_cores()
    item, collector = _item(_TOKENS), _collector(seconds + 60)
    seen = {"events": 0, "reads": 0, "failed": 0, "requests": 0}
    os.sched_setaffinity(0, own)
    length = 0.05 + _TOKENS * _GAP

    def stream(client: Client, number: int, until: float) -> None:
        # Spread over one answer's length, so that neither beginnings nor events come together.
        gevent.sleep(length * number / streams)
        while time.perf_counter() < until:
            record = Record(index=seen["requests"], item=item.id, scheduled=time.perf_counter_ns())
            _ask(client, item, record, collector)
            seen["requests"] += 1
            seen["events"] += len(record.event_times)
            seen["reads"] += len(set(record.event_times))
            seen["failed"] += not record.ok

    with (
        Replay(chat_script(0.05, _GAP, _TOKENS), others) as server,
        Client(parse_target(server.url), MODEL) as client,
    ):
        cpu, begun = time.process_time(), time.perf_counter()
        until = begun + seconds
        gevent.joinall([gevent.spawn(stream, client, n, until) for n in range(streams)], raise_error=True)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - begun
    return {
        "asked_rate": rate,
        "streams": streams,
        **seen,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "core_share": cpu / wall,
        "events_per_second": seen["events"] / wall,
        "events_per_cpu_second": seen["events"] / cpu,
        "events_per_read": seen["events"] / max(1, seen["reads"]),
        "server": server.report,
    }


def measure_memory(requests: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """``requests`` answers of a few tokens, at once, on 32 connections."""
    own, others = split_cores()
    os.sched_setaffinity(0, own)
    whole = b"".join(step.data for step in chat_script(0.0, 0.0, 4))
    assert whole.endswith(END)
    item, collector = _item(4), _collector(3_600.0)
    resident: list[int] = []
    failed = 0

    def ask(client: Client, number: int) -> None:
        nonlocal failed
        record = Record(index=number, item=item.id, scheduled=time.perf_counter_ns())
        _ask(client, item, record, collector)
        failed += not record.ok

    begun, cpu = time.perf_counter(), time.process_time()
    with Replay([Step(0.0, whole)], others) as server, Client(parse_target(server.url), MODEL) as client:
        pool = Pool(32)
        for number in range(requests):
            pool.spawn(ask, client, number)
            if (number + 1) % (requests // 10) == 0:
                resident.append(_resident())
                tell(f"  {number + 1:>9,} requests: {resident[-1] / 2**20:.1f} MiB")
        pool.join(raise_error=True)
    wall = time.perf_counter() - begun
    return {
        "requests": requests,
        "failed": failed,
        "wall_seconds": wall,
        "cpu_seconds": time.process_time() - cpu,
        "resident_bytes": resident,
        # From a tenth on, when arrays and histograms have their size.
        "growth_bytes": resident[-1] - resident[0],
        "growth_bytes_per_request": (resident[-1] - resident[0]) / (0.9 * requests),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@click.command(help=__doc__)
@click.option(
    "--rates", default="5000,15000,30000,45000", show_default=True, help="Events a second, with commas."
)
@click.option("--seconds", default=10.0, show_default=True, help="For each rate.")
@click.option("--requests", default=1_000_000, show_default=True, help="For the memory; 0 leaves it out.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the raw figures as JSON.")
def main(rates: str, seconds: float, requests: int, output: Path | None) -> None:
    """Print both tables; exit code 1 if the promised events a core are not reached or an answer was wrong."""
    raise_descriptor_limit()
    click.echo("  asked/s    got/s  streams  core  events/read  events a CPU second")
    events = []
    for rate in (float(word) for word in rates.split(",")):
        found = measure_events(rate, seconds)
        events.append(found)
        click.echo(
            f"{rate:>9,.0f} {found['events_per_second']:>8,.0f} {found['streams']:>8,} {found['core_share']:>5.0%}"
            f" {found['events_per_read']:>12.2f} {found['events_per_cpu_second']:>20,.0f}"
        )
    memory = measure_memory(requests, click.echo) if requests else None
    if memory:
        click.echo(f"  growth after the first tenth: {memory['growth_bytes'] / 2**20:.1f} MiB")
    if output is not None:
        result = {"machine": facts(), "events": events, "memory": memory}
        output.write_text(json.dumps(result, indent=1) + "\n")
    failed = sum(found["failed"] for found in events) + (memory["failed"] if memory else 0)
    best = max(found["events_per_cpu_second"] for found in events)
    if failed:
        click.echo(f"BROKEN: {failed} answers were not whole")
    if best < PROMISED_EVENTS:
        click.echo(f"BROKEN: {best:,.0f} events a CPU second; promised are {PROMISED_EVENTS:,}")
    sys.exit(1 if failed or best < PROMISED_EVENTS else 0)


if __name__ == "__main__":
    main()
