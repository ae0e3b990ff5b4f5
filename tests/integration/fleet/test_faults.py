"""The short form of the fault scenarios, on the mock engine: a fleet keeps its promises while it is broken."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults.fleet import Fleet, Plan
from benchmarks.faults.run import SCENARIOS

CASES = [
    *(
        (supervisor, scenario, rounds)
        for supervisor in ("process", "ray")
        for scenario, rounds in (("both_serve", 1), ("engines", 4), ("workers", 2), ("gateway", 2))
    ),
    ("ray", "ray", 2),
]


@pytest.fixture(scope="module")
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> Iterator[Fleet]:
    """Two replicas behind two gateway workers, for all tests of this file."""
    plan = Plan(engine="mock", supervisor=request.param, workers=2, mock_start_seconds=0.5)
    folder = tmp_path_factory.mktemp(f"faults-{request.param}")
    made = Fleet(folder, plan, environ={"XDG_CACHE_HOME": str(cache)})
    with made:
        made.up()
        yield made
    assert made.left == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("fleet", "scenario", "rounds"), CASES, indirect=["fleet"])
def test_a_fleet_keeps_its_promises(fleet: Fleet, scenario: str, rounds: int) -> None:
    result = asyncio.run(
        SCENARIOS[scenario](
            fleet, rounds=rounds, clients=8, seed=3, within=1.0, calm=0.0, say=lambda _line: None
        )
    )

    assert result.broken == [], result.table
    assert result.figures["requests"]["streams"]["ok"] > 0
