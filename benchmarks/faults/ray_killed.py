"""Ray's own processes are killed: ``status`` says so, the fleet heals, and nothing of the earlier life is left."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tri_serve.process.strays import command_of

from .ancestry import left_over, parents_of
from .connector import Connection, Connector
from .figures import seconds, sentence, table
from .fleet import FaultsError, Fleet, given_up, is_whole, kill, parts
from .kills import Say
from .result import Result, examples, request_rows
from .streams import Outcome
from .traffic import Load, Record, Tally, address

VICTIMS = ("raylet", "gcs_server")
SAYS_WITHIN = 60.0
"""Seconds in which ``status`` has to say what happened."""
_HEALS_WITHIN = 240.0
"""A fleet that is not whole by itself after so many seconds gets an ``up``."""
_TAIL_SECONDS = 3.0


@dataclass
class Death:
    """One kill of a process of Ray's, and what came of it. Seconds after the kill, unless said otherwise."""

    victim: str
    pid: int
    at: float
    """Monotonic time."""
    said: float | None = None
    """When status said that something had happened."""
    words: str = ""
    """What it said."""
    healed: float | None = None
    by: str = "itself"
    """``itself`` or ``up``."""
    kept: list[str] = field(default_factory=list)
    """Replicas whose engine outlived the kill."""
    left: list[str] = field(default_factory=list)
    """Processes of the earlier life that served nothing any more when the fleet was whole."""
    window: dict[str, Any] = field(default_factory=dict)
    """What clients saw until then."""


async def ray(
    fleet: Fleet, *, rounds: int, clients: int, seed: int, within: float, calm: float | None, say: Say
) -> Result:
    """SIGKILLs of raylet and gcs_server in turn. Raises FaultsError if the fleet has no Ray of its own."""
    draw = random.Random(seed)
    host, port = address(fleet.url)
    load = Load(fleet.url, fleet.plan.engine, clients, seed, pause=fleet.plan.pause)
    deaths: list[Death] = []
    broken: list[str] = []
    async with Connector(host, port) as connector, load:
        for number in range(rounds):
            status = await fleet.whole(120.0)
            await asyncio.sleep((calm or 0.0) + draw.uniform(0.0, within))
            death = await _one(fleet, status, VICTIMS[number % len(VICTIMS)])
            deaths.append(death)
            death.window = _window(load.records, connector.connections, death)
            say(
                f"kill {number + 1}/{rounds}: {death.victim}, said after {seconds(death.said)}, "
                f"whole after {seconds(death.healed)} by {death.by}"
            )
            if death.healed is None:
                broken.append(f"the fleet did not heal, not even by up, after {death.victim}: {death.words}")
                break
        if broken:
            load.abandon()
            connector.abandon()
        else:
            await asyncio.sleep(_TAIL_SECONDS)
    return judge(load.records, connector.connections, deaths, broken)


async def _one(fleet: Fleet, status: dict[str, Any], name: str) -> Death:
    before = parts(status)
    pid = before.get(f"ray/{name}")
    if pid is None:
        raise FaultsError(f"status names no {name}: {sorted(before)}; is the supervisor Ray?")
    earlier = await fleet.beside(fleet.processes)
    death = Death(name, pid, kill(pid))
    await fleet.beside(_watch, fleet, death)
    if death.healed is None:
        death.by = "up"
        try:
            await fleet.beside(fleet.up)
            await fleet.whole(120.0)
            death.healed = time.monotonic() - death.at
        except FaultsError as error:
            death.words += f"; {error}"
            return death
    now = await fleet.beside(fleet.processes)
    healed = await fleet.beside(fleet.status)
    assert healed is not None, "it was whole a moment ago"
    after = parts(healed)
    death.kept = [
        replica["name"] for replica in healed["replicas"] if before.get(replica["name"]) == replica["pid"]
    ]
    left = left_over(
        earlier, now, parents_of(p.pid for p in now), healed["supervisor"]["pid"], after.values()
    )
    death.left = [command_of(pid) for pid in left]
    return death


def _watch(fleet: Fleet, death: Death) -> None:
    """Ask for the status until the fleet is whole again, or says that it will not be."""
    for status in fleet.looks(_HEALS_WITHIN):
        now = time.monotonic() - death.at
        if status is not None:
            words = what_it_says(status, death.victim, death.pid)
            if death.said is None and words:
                death.said, death.words = now, words
            replaced = parts(status).get(f"ray/{death.victim}") not in (None, death.pid)
            if is_whole(status, fleet.plan.workers) and replaced:
                death.healed = now
                return
            if given_up(status) or status.get("condition") in ("stale", "failed"):
                return


def what_it_says(status: dict[str, Any], victim: str, pid: int) -> str:
    """What a status says of a dead process of Ray's; empty while it does not know."""
    state = status.get("ray")
    if state is None or status.get("condition") in ("stale", "failed"):
        return f"{status.get('condition')}: {(status.get('error') or {}).get('message')}"
    # The error of an earlier death stays: it says something new only once the process is another one.
    known = (state.get("processes") or {}).get(victim) != pid
    if state["phase"] != "running" or known:
        return f"ray {state['phase']}: {state.get('error')}"
    return ""


def _window(records: Sequence[Record], connections: Sequence[Connection], death: Death) -> dict[str, Any]:
    until = death.at + (death.healed if death.healed is not None else _HEALS_WITHIN)
    hit = [r for r in records if r.ended >= death.at and r.began <= until]
    fresh = [c for c in connections if death.at <= c.opened <= until]
    good = sorted(r.ended for r in hit if r.outcome is Outcome.OK)
    pauses = [b - a for a, b in zip([death.at, *good], [*good, until], strict=False)]
    return {
        "requests": Tally.of(hit).plain(),
        "no_answer_seconds": max(pauses, default=0.0),
        "new_connections": len(fresh),
        "refused": sum(c.outcome is Outcome.REFUSED for c in fresh),
        "not_answered": sum(c.outcome is not Outcome.OK for c in fresh),
        "longest_wait": max((c.waited for c in fresh), default=0.0),
    }


def judge(
    records: list[Record], connections: list[Connection], deaths: list[Death], broken: list[str]
) -> Result:
    """What was promised, and what was seen."""
    broken = list(broken)
    for death in deaths:
        if death.said is None or death.said > SAYS_WITHIN:
            broken.append(f"{death.victim}: status said nothing of it within {SAYS_WITHIN:g} s")
        if death.left:
            broken += [
                f"{death.victim}: {len(death.left)} processes of the earlier life are left",
                *death.left,
            ]
    bad = [r for r in records if r.outcome in (Outcome.CUT, Outcome.WRONG)]
    figures = {
        "requests": Tally.of(records).plain(),
        "cut_or_wrong": examples(bad),
        "deaths": [asdict(death) for death in deaths],
        "records": [record.plain() for record in records],
        "samples": [connection.plain() for connection in connections],
    }
    return Result(_table(records, deaths), figures, broken)


def _table(records: list[Record], deaths: list[Death]) -> str:
    rows: list[list[object]] = [
        [
            death.victim,
            seconds(death.said),
            seconds(death.healed),
            death.by,
            len(death.kept),
            len(death.left),
            f"{death.window['refused']}/{death.window['new_connections']}",
            seconds(death.window["no_answer_seconds"]),
        ]
        for death in deaths
    ]
    said = [f"{death.victim}: {death.words or 'nothing'}" for death in deaths]
    return "\n\n".join(
        [
            table(["killed", "said", "whole", "by", "kept", "left", "refused", "no answer"], rows),
            sentence(
                "Seconds after the kill until status said so and until the fleet was whole, by itself or by "
                "`tri-serve up`; engines that lived on; processes of the earlier life that were left; new "
                "connections refused of all; longest time in which no request was answered."
            ),
            table(["what clients saw", "not streamed", "streams"], request_rows(records)),
            "What status said:\n" + "\n".join(sentence(line) for line in said),
        ]
    )
