"""``up`` where something runs already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tri_serve.cli import fleet_up
from tri_serve.fleet import detached
from tri_serve.fleet.state import FleetState, RayState
from tri_serve.spec.load import load_spec

Make = Callable[..., Any]


@pytest.mark.parametrize(("phase", "expected"), [("failed", ["stop", "start"]), ("waiting", ["converge"])])
def test_a_fleet_whose_ray_was_given_up_starts_as_a_whole(
    phase: Any, expected: list[str], fleet: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noted(name: str) -> Callable[..., FleetState]:
        def note(*_args: object, **_more: object) -> FleetState:
            done.append(name)
            state: FleetState = fleet()
            return state

        return note

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    found = detached.Found(fleet(ray=RayState(phase=phase, error="Ray died")), alive=True)
    monkeypatch.setattr(detached, "find_fleet", lambda _paths: found)
    monkeypatch.setattr(detached, "stop_here", noted("stop"))
    monkeypatch.setattr(fleet_up, "converge", noted("converge"))
    monkeypatch.setattr(fleet_up, "_start", noted("start"))
    loaded = load_spec("tri-tiny-bf16", [], {})
    fleet_up.up(loaded, "tri", foreground=False, timeout=None, question=None)
    assert done == expected
