"""Where the load of a release goes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tri_serve.cli.load_place import place_of
from tri_serve.errors import FleetError


def _state(source: Path, **more: object) -> SimpleNamespace:
    gateway = SimpleNamespace(admin_port=9_101, phase="running")
    engines = [
        SimpleNamespace(name="replica-0", host="127.0.0.1", port=8_101, phase="ready"),
        SimpleNamespace(name="replica-1", host="::1", port=8_102, phase="ready"),
        SimpleNamespace(name="replica-2", host=None, port=None, phase="waiting"),
    ]
    facts = {"url": "http://127.0.0.1:8000", "model": "tri-tiny", "source": str(source)}
    return SimpleNamespace(**{**facts, "gateways": (gateway,), "replicas": tuple(engines), **more})


def _runs(monkeypatch: pytest.MonkeyPatch, state: SimpleNamespace | None, *, alive: bool = True) -> None:
    found = None if state is None else SimpleNamespace(state=state, alive=alive)
    monkeypatch.setattr("tri_serve.fleet.detached.current_fleet", lambda paths: found)


def test_the_gateway_is_asked_and_everything_that_tells_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").touch()
    _runs(monkeypatch, _state(tmp_path))
    place = place_of("tri")
    assert (place.url, place.model, place.replicas) == ("http://127.0.0.1:8000", "tri-tiny", 2)
    assert place.tokenizer == tmp_path / "tokenizer.json"
    assert place.scrape == (
        "gateway=http://127.0.0.1:9101/metrics",
        "replica-0=http://127.0.0.1:8101/metrics",
        "replica-1=http://[::1]:8102/metrics",
    )


def test_a_checkpoint_elsewhere_leaves_counting_to_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _runs(monkeypatch, _state(Path("trillionlabs/Tri-21B")))
    assert place_of("tri").tokenizer is None


@pytest.mark.parametrize("known", [True, False])
def test_a_release_that_does_not_run_is_told(
    known: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _runs(monkeypatch, _state(tmp_path) if known else None, alive=False)
    with pytest.raises(FleetError, match="release mine is not running"):
        place_of("mine")
