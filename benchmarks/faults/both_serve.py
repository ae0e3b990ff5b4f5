"""Every replica really serves: the engines' own counters rise."""

from __future__ import annotations

import asyncio

from .engines import judge
from .figures import table
from .fleet import Fleet, counter
from .kills import Say
from .result import Result
from .traffic import Load

_SUCCESSES = "vllm:request_success_total"
_TOKENS = "vllm:generation_tokens_total"
_LOAD_SECONDS = 20.0


async def both_serve(
    fleet: Fleet, *, rounds: int, clients: int, seed: int, within: float, calm: float | None, say: Say
) -> Result:
    """Load without a fault, two seconds a round; nothing is killed, so ``within`` and ``calm`` say nothing."""
    status = await fleet.whole(60.0)
    ports = {replica["name"]: replica["port"] for replica in status["replicas"]}
    before = await asyncio.to_thread(_counters, ports)
    load = Load(fleet.url, fleet.plan.engine, clients, seed, pause=fleet.plan.pause)
    async with load:
        await asyncio.sleep(min(_LOAD_SECONDS, 2.0 * rounds))
    after = await asyncio.to_thread(_counters, ports)
    risen = {
        name: {metric: after[name][metric] - before[name][metric] for metric in (_SUCCESSES, _TOKENS)}
        for name in ports
    }
    say(f"{len(load.records)} requests")
    result = judge(load.records, [], [])
    result.broken += [f"{name} completed no request" for name in ports if risen[name][_SUCCESSES] <= 0]
    counted = sum(figures[_SUCCESSES] for figures in risen.values())
    if counted != len(load.records):
        result.broken.append(f"{len(load.records)} requests were made; the engines completed {counted:g}")
    result.table = table(
        ["engine", "requests completed", "tokens generated"],
        [[name, *(f"{value:,.0f}" for value in figures.values())] for name, figures in risen.items()],
    )
    result.figures |= {"risen": risen}
    return result


def _counters(ports: dict[str, int]) -> dict[str, dict[str, float]]:
    return {
        name: {metric: counter(port, metric) for metric in (_SUCCESSES, _TOKENS)}
        for name, port in ports.items()
    }
