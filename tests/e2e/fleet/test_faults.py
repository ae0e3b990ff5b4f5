"""The short form of the fault scenarios on real engines: a fleet keeps its promises while it is broken.

``python -m benchmarks.faults`` is the long form. One fleet for the module, an order that kills ever more: an engine
takes a minute to start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks.faults.fleet import Fleet, Plan
from benchmarks.faults.run import SCENARIOS

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module", params=["ray"])
def fleet(
    request: pytest.FixtureRequest, engine_environment: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """Two replicas behind two gateway workers."""
    folder = tmp_path_factory.mktemp(f"faults-{request.param}")
    made = Fleet(
        folder,
        Plan(engine="vllm", supervisor=request.param, workers=2, pause=6.0),
        environ={"XDG_CACHE_HOME": str(folder / "cache")},
    )
    with made:
        made.up()
        yield made
    assert made.left == []


@pytest.mark.parametrize(
    ("scenario", "rounds"), [("both_serve", 1), ("workers", 1), ("gateway", 1), ("engines", 1), ("ray", 1)]
)
def test_a_fleet_keeps_its_promises(fleet: Fleet, scenario: str, rounds: int) -> None:
    work = SCENARIOS[scenario](
        fleet, rounds=rounds, clients=8, seed=11, within=3.0, calm=0.0, say=lambda _line: None
    )
    result = asyncio.run(work)

    assert result.broken == [], result.table
    assert result.figures["requests"]["streams"]["ok"] > 0
