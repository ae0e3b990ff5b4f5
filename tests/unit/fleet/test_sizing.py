"""When a fleet follows its load, and how long it waits before it tries again to add engines that did not start."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tri_serve.fleet import sizing
from tri_serve.fleet.load import FleetLoad
from tri_serve.fleet.sizing import Pause, keep_size
from tri_serve.fleet.state import FleetPhase
from tri_serve.spec.models import Spec


def test_each_failure_doubles_the_pause_up_to_ten_minutes() -> None:
    pause = Pause()
    assert pause.over(0.0)
    assert [pause.failed(100.0) for _ in range(10)] == [2, 4, 8, 16, 32, 64, 128, 256, 512, 600]
    assert pause.failed(100.0) == 600


def test_a_try_is_due_when_the_pause_is_over() -> None:
    pause = Pause()
    pause.failed(100.0)
    assert not pause.over(101.9)
    assert pause.over(102.0)


def test_engines_that_start_clear_the_record() -> None:
    pause = Pause()
    pause.failed(100.0)
    pause.failed(102.0)
    pause.reset()
    assert pause.over(102.0)
    assert pause.failed(103.0) == 2


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"replicas": [], "workers": []}, [1]),  # it answers, and has nothing to do
        (None, []),
    ],
)
def test_gateways_that_cannot_be_asked_are_not_taken_for_idle_ones(
    status: dict[str, Any] | None, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> list[int]:
        resized: list[int] = []

        async def load() -> FleetLoad:
            return FleetLoad({"gateway@a": status, "gateway@b": None})

        async def resize(count: int) -> None:
            resized.append(count)
            fleet.replicas = [None] * count

        replicas = {"min": 1, "max": 4, "target": 2, "scale_down_after": 0}
        spec = Spec.model_validate(
            {"model": {"source": "s", "served_name": "t"}, "fleet": {"replicas": replicas}}
        )
        fleet: Any = SimpleNamespace(
            spec=spec, phase=FleetPhase.RUNNING, replicas=[None] * 3, load=load, resize=resize
        )
        following = asyncio.create_task(keep_size(fleet))
        await asyncio.sleep(0.2)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        return resized

    monkeypatch.setattr(sizing, "_LOOK_SECONDS", 0.005)
    assert asyncio.run(scenario()) == expected
