"""Gateway processes are killed: only what they had in hand is lost, and new connections wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from .connections import client_ports_of
from .connector import Connection, Connector
from .figures import percentile, seconds, sentence, table
from .fleet import Fleet
from .kills import Kill, Say, Timing, calm_for, kill_in_turn, product_calm
from .losses import Death, Losses, quiet_median, sort_losses, unexplained, waits_of
from .result import Result, examples, request_rows
from .streams import Outcome
from .traffic import Load, Record, Tally, address

_TAIL_SECONDS = 3.0
_STREAMS = 0.8
"""Mostly streams: they are what a killed process loses."""
_WORKER_SOUND_SECONDS = 10.0
"""A worker that ran for so long is started again at once; one that did not waits a little first."""


async def workers(
    fleet: Fleet, *, rounds: int, clients: int, seed: int, within: float, calm: float | None, say: Say
) -> Result:
    """SIGKILLs of one gateway worker after the other."""
    count = fleet.plan.workers
    victims = [f"gateway/worker-{k % count}" for k in range(rounds)]
    rest = calm_for(rounds, count, steady=_WORKER_SOUND_SECONDS, limit=5) if calm is None else calm
    return await _kill_gateways(fleet, victims, Timing(within, rest), clients, seed, say, all_lost=False)


async def gateway(
    fleet: Fleet, *, rounds: int, clients: int, seed: int, within: float, calm: float | None, say: Say
) -> Result:
    """SIGKILLs of the gateway's first process, with which its workers end."""
    rest = product_calm(rounds, 1) if calm is None else calm
    victims = ["gateway"] * rounds
    return await _kill_gateways(fleet, victims, Timing(within, rest), clients, seed, say, all_lost=True)


async def _kill_gateways(
    fleet: Fleet,
    victims: Sequence[str],
    timing: Timing,
    clients: int,
    seed: int,
    say: Say,
    *,
    all_lost: bool,
) -> Result:
    host, port = address(fleet.url)
    load = Load(fleet.url, fleet.plan.engine, clients, seed, streams=_STREAMS, pause=fleet.plan.pause)

    def look(pid: int) -> dict[str, Any]:
        streaming = load.streaming_ports()
        ports = None if all_lost else client_ports_of(pid, port)
        held = streaming if ports is None else streaming & ports
        return {
            "clients": load.phases(),
            "streams": len(streaming),
            "streams_of_victim": len(held),
            "ports": None if ports is None else sorted(ports),
        }

    async with Connector(host, port) as connector, load:
        kills, broken = await kill_in_turn(fleet, victims, timing, seed, look=look, say=say)
        if broken:
            load.abandon()
            connector.abandon()
        else:
            await asyncio.sleep(_TAIL_SECONDS)
    return judge(load.records, connector.connections, kills, broken)


def judge(
    records: list[Record], connections: list[Connection], kills: list[Kill], broken: list[str]
) -> Result:
    """What records and connections say of the promises."""
    deaths = [_death(kill) for kill in kills]
    losses = sort_losses(records, deaths)
    broken = list(broken)
    if losses.others:
        broken += [f"{len(losses.others)} requests failed that no kill had hit", *examples(losses.others)]
    for kill, lost in zip(kills, losses.by_death, strict=True):
        # One begun on a connection that is dead already, unheard of, is lost, too, but was not in its hand.
        streams = sum(record.stream and record.began <= kill.at for record in lost)
        if kill.seen["ports"] is not None and streams > kill.seen["streams_of_victim"]:
            broken.append(
                f"{kill.victim} had {kill.seen['streams_of_victim']} streams, and {streams} were lost with it"
            )
    if failed := unexplained(connections, deaths):
        broken.append(f"{len(failed)} of {len(connections)} new connections were not answered")
        broken += [_told(connection, deaths) for connection in failed[:5]]
    figures = {
        "requests": Tally.of(records).plain(),
        "connections": {
            "opened": len(connections),
            "refused": sum(c.outcome is Outcome.REFUSED for c in connections),
            "quiet_median_seconds": quiet_median(connections, deaths),
            "longest_seconds": max((c.waited for c in connections), default=0.0),
            "unexplained": len(failed),
        },
        "lost_by_kill": [len(lost) for lost in losses.by_death],
        "kills": [kill.plain() for kill in kills],
        "records": [record.plain() for record in records],
        "samples": [connection.plain() for connection in connections],
    }
    return Result(_table(records, connections, kills, deaths, losses), figures, broken)


def _death(kill: Kill) -> Death:
    ports = kill.seen["ports"]
    until = kill.whole if kill.whole is not None else time.monotonic()
    return Death(kill.looked, kill.at, None if ports is None else frozenset(ports), until)


def _told(connection: Connection, deaths: Sequence[Death]) -> str:
    after = min((connection.opened - d.at for d in deaths if d.at <= connection.opened), default=None)
    when = "before any kill" if after is None else f"{after * 1e3:.0f} ms after a kill"
    return f"opened {when}: {connection.outcome}: {connection.detail}"


def _table(
    records: list[Record],
    connections: list[Connection],
    kills: list[Kill],
    deaths: Sequence[Death],
    losses: Losses,
) -> str:
    rows: list[list[object]] = []
    longest = []
    for kill, death, lost in zip(kills, deaths, losses.by_death, strict=True):
        waits = waits_of(connections, death)
        longest.append(waits.longest)
        rows.append(
            [
                kill.victim.removeprefix("gateway/"),
                seconds(kill.replaced_seconds),
                f"{sum(r.stream for r in lost)} of {kill.seen['streams_of_victim']}/{kill.seen['streams']}",
                waits.opened,
                waits.in_hand,
                len(waits.failed),
                seconds(waits.longest, 2),
            ]
        )
    head = ["killed", "back after", "streams lost", "new", "in hand", "failed", "longest wait"]
    refusals = sum(c.outcome is Outcome.REFUSED for c in connections)
    return "\n\n".join(
        [
            table(head, rows),
            sentence(
                "Streams lost: of those of the killed process / of all. New: connections opened until the fleet "
                "was whole. In hand: opened before the kill and lost with the process. Failed: opened after it "
                "and not answered. Longest wait: from opening to the answer."
            ),
            sentence(
                f"{len(connections):,} new connections, one every 20 ms: {refusals} refused; an answer after "
                f"{seconds(quiet_median(connections, deaths))} at the median when nothing was killed; longest "
                f"wait at a kill {seconds(percentile(longest, 0.5), 2)} (median), "
                f"{seconds(max(longest, default=0.0), 2)} (longest)."
            ),
            table(["what clients saw", "not streamed", "streams"], request_rows(records)),
        ]
    )
