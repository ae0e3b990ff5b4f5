"""Engines are killed: no request that is not streamed fails, and no stream is cut."""

from __future__ import annotations

import asyncio
from typing import Any

from .figures import seconds, sentence, spread, table
from .fleet import Fleet
from .kills import Kill, Say, Timing, kill_in_turn, product_calm
from .result import Result, examples, request_rows
from .streams import Outcome
from .traffic import Load, Record, Tally

_TAIL_SECONDS = 3.0
"""The load goes on for so long after the last part is back."""
_FOLLOWS = 15.0
"""An error event so many seconds after a kill is that kill's."""


def victims_in_turn(rounds: int, replicas: int) -> list[str]:
    """API server and core in turn, replicas in turn; 2 x ``replicas`` rounds meet every pair of the two."""
    return [f"replica-{(k + k // 2) % replicas}" + ("/core" if k % 2 else "") for k in range(rounds)]


async def engines(
    fleet: Fleet, *, rounds: int, clients: int, seed: int, within: float, calm: float | None, say: Say
) -> Result:
    """SIGKILLs of API servers and cores under load."""
    replicas = fleet.plan.replicas
    rest = product_calm(rounds, replicas) if calm is None else calm
    load = Load(fleet.url, fleet.plan.engine, clients, seed, pause=fleet.plan.pause)
    async with load:
        kills, broken = await kill_in_turn(
            fleet,
            victims_in_turn(rounds, replicas),
            Timing(within, rest),
            seed,
            look=lambda _: {"clients": load.phases()},
            say=say,
        )
        if broken:
            load.abandon()
        else:
            await asyncio.sleep(_TAIL_SECONDS)
    return judge(load.records, kills, broken)


def judge(records: list[Record], kills: list[Kill], broken: list[str]) -> Result:
    """What the records say of the promises."""
    broken = list(broken)
    failed = [r for r in records if not r.stream and r.outcome is not Outcome.OK]
    streams = [r for r in records if r.stream and r.outcome not in (Outcome.OK, Outcome.ERROR_EVENT)]
    unasked = [
        r
        for r in records
        if r.outcome is Outcome.ERROR_EVENT and not any(0 <= r.ended - k.at <= _FOLLOWS for k in kills)
    ]
    for found, words in (
        (failed, "requests that were not streamed failed"),
        (streams, "streams were neither whole nor ended by an error event"),
        (unasked, "streams ended by an error event though nothing had been killed"),
    ):
        if found:
            broken += [f"{len(found)} {words}", *examples(found)]
    if not records:
        broken.append("no request was made")
    figures: dict[str, Any] = {
        "requests": Tally.of(records).plain(),
        "replaced_seconds": {
            what: spread(_replaced(kills, core=core))
            for what, core in (("api_server", False), ("engine_core", True))
        },
        "kills": [kill.plain() for kill in kills],
        "records": [record.plain() for record in records],
    }
    return Result(_table(records, kills), figures, broken)


def _replaced(kills: list[Kill], *, core: bool) -> list[float]:
    return [
        kill.replaced_seconds
        for kill in kills
        if kill.replaced_seconds is not None and kill.victim.endswith("/core") is core
    ]


def _table(records: list[Record], kills: list[Kill]) -> str:
    rows: list[list[object]] = []
    for core, name in ((False, "API server"), (True, "EngineCore")):
        times = spread(_replaced(kills, core=core))
        count = sum(kill.victim.endswith("/core") is core for kill in kills)
        rows.append([name, count, *(seconds(times[key]) for key in ("min", "median", "max"))])
    return "\n\n".join(
        [
            table(["killed", "times", "ready again: min", "median", "max"], rows),
            table(["what clients saw", "not streamed", "streams"], request_rows(records)),
            sentence(f"At the kills the clients were: {_phases(kills)}."),
        ]
    )


def _phases(kills: list[Kill]) -> str:
    counts: dict[str, int] = {}
    for kill in kills:
        for phase, count in kill.seen["clients"].items():
            counts[phase] = counts.get(phase, 0) + count
    words = {
        "idle": "between two requests",
        "connecting": "connecting",
        "waiting": "waiting for an answer's first byte",
        "receiving": "receiving one",
    }
    return ", ".join(f"{count} {words[phase]}" for phase, count in sorted(counts.items())) or "none"
