"""What this machine can send, kept from a self-test for later runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tri_serve.load.ceiling import Ceiling, ceiling_path, read_ceiling, warning, write_ceiling

CEILING = Ceiling(
    measured_at="2026-01-01T00:00:00+00:00",
    version="1",
    cpu="Some CPU",
    cores=4,
    requests_per_second=400.0,
    events_per_second=10_000.0,
    requests_at_least=False,
    events_at_least=False,
    trials=(),
)


def test_what_was_written_is_read_on_the_same_machine(tmp_path: Path) -> None:
    path = ceiling_path({"XDG_STATE_HOME": str(tmp_path)})
    write_ceiling(CEILING, path)
    assert read_ceiling(path, cpu="Some CPU", cores=4) == CEILING
    assert list(tmp_path.rglob("*.part")) == []


@pytest.mark.parametrize(("cpu", "cores"), [("Another CPU", 4), ("Some CPU", 2)])
def test_another_machines_ceiling_says_nothing_here(tmp_path: Path, cpu: str, cores: int) -> None:
    path = tmp_path / "ceiling.json"
    write_ceiling(CEILING, path)
    assert read_ceiling(path, cpu=cpu, cores=cores) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}'])
def test_a_file_that_is_none_counts_as_not_measured(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ceiling.json"
    path.write_text(text)
    assert read_ceiling(path, cpu="Some CPU", cores=4) is None
    assert read_ceiling(tmp_path / "none.json", cpu="Some CPU", cores=4) is None


def test_a_load_well_under_the_ceiling_is_not_warned_of() -> None:
    assert warning(CEILING, requests_per_second=300, output_tokens=8, processes=1) is None
    assert warning(CEILING, requests_per_second=600, output_tokens=8, processes=2) is None
    assert warning(None, requests_per_second=1e6, output_tokens=8, processes=1) is None


def test_a_load_near_the_ceiling_is_told_how_many_processes_would_do() -> None:
    words = warning(CEILING, requests_per_second=380, output_tokens=8, processes=1)
    assert words is not None
    assert "95%" in words
    assert "--processes 2" in words


def test_many_tokens_count_as_events() -> None:
    words = warning(CEILING, requests_per_second=50, output_tokens=500, processes=1)
    assert words is not None
    assert "250%" in words
    assert "--processes 4" in words


def test_a_load_beyond_the_cores_is_sent_to_other_machines() -> None:
    words = warning(CEILING, requests_per_second=4_000, output_tokens=8, processes=4)
    assert words is not None
    assert "several machines" in words
