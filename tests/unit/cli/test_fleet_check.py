"""What ``up`` shows of its checks."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tri_serve.cli import fleet_check
from tri_serve.cli.progress import PlainSteps
from tri_serve.fleet.desired import Desired
from tri_serve.fleet.preflight import Preflight, preflight
from tri_serve.fleet.release import release_paths
from tri_serve.spec.models import Spec


def test_warnings_are_shown_each_on_a_line_and_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))

    def warned(spec: Spec, **given: Any) -> Preflight:
        return replace(
            preflight(spec, **given | {"new_listener": False}), warnings=("it may be tight", "so may that")
        )

    monkeypatch.setattr(fleet_check, "preflight", warned)
    spec = Spec.model_validate(
        {
            "model": {"source": "tiny:bf16", "served_name": "m"},
            "engine": {"device": "cpu", "command": ("/bin/true",), "cpu_kv_cache_gib": 0.1},
            "fleet": {"supervisor": "process"},
        }
    )
    paths = release_paths("warned")
    paths.create()
    lines: list[str] = []
    times = fleet_check.Times(time.monotonic())
    fleet_check.check(Desired(spec=spec, environment_hashes={}), paths, times, view=PlainSteps(lines.append))
    shown = [line.split("s  ", 1)[1] for line in lines]
    assert [line for line in shown if line.startswith("warning")] == [
        "warning: it may be tight",
        "warning-2: so may that",
    ]
    assert shown[-1].startswith("environment: ok ")
