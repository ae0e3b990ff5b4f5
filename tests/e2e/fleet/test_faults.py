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
        Plan(engine="vllm", supervisor=request.param, workers=2, pause=4.0),
        environ={"XDG_CACHE_HOME": str(folder / "cache")},
    )
    with made:
        made.up()
        yield made
    assert made.left == []


@pytest.mark.parametrize("scenario", ["both_serve", "workers", "gateway", "engines", "ray"])
def test_a_fleet_keeps_its_promises(fleet: Fleet, scenario: str) -> None:
    work = SCENARIOS[scenario](
        fleet, rounds=2, clients=8, seed=11, within=3.0, calm=0.0, say=lambda _line: None
    )
    result = asyncio.run(work)

    assert result.broken == [], result.table
    assert result.figures["requests"]["streams"]["ok"] > 0
