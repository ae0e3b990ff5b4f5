"""Killing parts of a fleet, one at a time, at moments drawn by a seed, and waiting until it is whole again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tri_serve.fleet.backoff import RestartBackoff

from .fleet import FaultsError, Fleet, kill, parts

Say = Callable[[str], None]
"""Where a scenario tells how far it is."""
Look = Callable[[int], dict[str, Any]]
"""Pid of the victim → what is to be remembered of the moment just before its death."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When parts are killed. Seconds."""

    within: float = 5.0
    """The moment is drawn uniformly from so many seconds, beginning when the fleet is whole."""
    calm: float = 0.0
    """A victim has run for at least so long."""
    patience: float = 300.0
    """Until the fleet must be whole again."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL and what came of it."""

    victim: str
    pid: int
    looked: float
    """Monotonic time just before ``seen`` was noted."""
    at: float
    """Monotonic time just after the signal was sent."""
    drawn: float
    """Seconds of the interval that had passed."""
    seen: dict[str, Any]
    """What was going on at that moment."""
    whole: float | None = None
    """Monotonic time at which every part was ready again; None if that did not happen."""
    replaced_seconds: float | None = None
    """From the kill until the victim's place was ready again, by the fleet's own clock."""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def calm_for(rounds: int, victims: int, *, steady: float, limit: int) -> float:
    """Seconds for which a victim has to have run before it is killed.

    A part that dies ``limit`` times, never having run for ``steady`` seconds in between, is in a crash loop and
    is given up: that is a promise too. As many kills as that have to be apart.
    """
    return steady + 1.0 if -(-rounds // victims) >= limit else 0.0


def product_calm(rounds: int, victims: int) -> float:
    """As ``calm_for``, by the fleet's own rule for engines and gateways."""
    rule = RestartBackoff()
    return calm_for(rounds, victims, steady=rule.steady, limit=rule.limit)


async def kill_in_turn(
    fleet: Fleet,
    victims: Sequence[str],
    timing: Timing,
    seed: int,
    *,
    look: Look,
    say: Say,
) -> tuple[list[Kill], list[str]]:
    """Kill each of ``victims``, names as ``parts`` has them; the kills, and what went wrong.

    Ends early if the fleet does not become whole again.
    """
    draw = random.Random(seed)
    kills: list[Kill] = []
    status = await fleet.whole(timing.patience)
    ready = dict.fromkeys(victims, float("-inf"))
    for number, victim in enumerate(victims, 1):
        rest = ready[victim] + timing.calm - time.monotonic()
        drawn = draw.uniform(0.0, timing.within)
        await asyncio.sleep(max(0.0, rest) + drawn)
        pid = parts(status).get(victim)
        if pid is None:
            return kills, [f"status names no {victim}"]
        looked = time.monotonic()
        seen = look(pid)
        wall = time.time()
        try:
            died = Kill(victim, pid, looked, kill(pid), drawn, seen)
        except FaultsError as error:
            return kills, [f"{victim} died before it was killed: {error}"]
        try:
            status = await fleet.whole(timing.patience, {victim: pid})
        except FaultsError as error:
            kills.append(died)
            return kills, [f"after kill {number} ({victim}): {error}"]
        whole = time.monotonic()
        ready[victim] = whole
        since = _since(status, victim)
        replaced = since - wall if since is not None and since > wall else whole - died.at
        kills.append(Kill(victim, pid, looked, died.at, drawn, seen, whole=whole, replaced_seconds=replaced))
        say(f"kill {number}/{len(victims)}: {victim} (pid {pid}), ready again after {replaced:.1f} s")
    return kills, []


def _since(status: dict[str, Any], victim: str) -> float | None:
    """Unix time since which a replica or a gateway is as it is; None for what has no time of its own."""
    name = victim.partition("/core")[0]
    for part in (*status["replicas"], *status["gateways"]):
        if part["name"] == name:
            return float(part["since"])
    return None
