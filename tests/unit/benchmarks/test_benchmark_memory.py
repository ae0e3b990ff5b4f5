"""How the benchmark of the load client's memory judges what it sampled."""

from __future__ import annotations

import math
import sys

import pytest

from benchmarks.load.memory import MOST_GROWTH, KeepingRun, Sample, found_of, judged_from
from benchmarks.load.slopes import slope_of

MIB = 2**20


def wavy(grow: float, noise: float = 0.0) -> list[tuple[float, float]]:
    """A line with a wave on it, which comes and goes as a collector of garbage makes it."""
    return [(x / 10, 100 + grow * x / 10 + noise * math.sin(x / 9)) for x in range(100)]


def test_the_slope_of_a_line_is_found_and_is_certain() -> None:
    found = slope_of(wavy(3.0))
    assert found is not None
    assert found.slope == pytest.approx(3.0)
    assert found.half_width == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("grow", "noise", "word"), [(0.0, 0.5, "flat"), (3.0, 0.5, "grows"), (0.0, 30.0, "cannot be said")]
)
def test_noise_passes_for_neither_flatness_nor_growth(grow: float, noise: float, word: str) -> None:
    found = slope_of(wavy(grow, noise))
    assert found is not None
    assert found.judged(1.0) == word


def test_too_few_samples_have_no_slope() -> None:
    assert slope_of([]) is None
    assert slope_of([(1.0, 1.0)] * 50) is None
    assert slope_of(wavy(0.0)[:9]) is None


def samples(pid: int, grow: float) -> list[Sample]:
    """As ``grow`` bytes for each request; twice as many in the first fifth, while arrays fill."""
    return [
        Sample(
            pid, float(n), 1_000 * n, 200 * MIB, round(100 * MIB + grow * 1_000 * n * (2 if n < 20 else 1))
        )
        for n in range(1, 101)
    ]


def test_a_process_that_keeps_a_small_object_of_each_request_is_found_out() -> None:
    leader, client = found_of(samples(9, 32.0) + samples(7, 0.0), since=20_000)
    assert (leader.role, leader.word, leader.samples) == ("leader", "flat", 81)
    assert (client.role, client.word) == ("client 1", "grows")
    assert client.slope is not None
    assert client.slope.slope == pytest.approx(32 * 100_000, rel=1e-3)
    assert client.slope.least > MOST_GROWTH


def test_what_processes_keep_by_design_is_not_judged() -> None:
    assert judged_from(1_000_000, kept=200_000, clients=2) == 460_000
    assert judged_from(1_000_000, kept=2_000, clients=1) == 200_000


def test_the_program_that_is_measured_is_the_one_that_a_run_starts(tmp_path) -> None:
    run = KeepingRun("http://h:1", "smoke", tmp_path)
    assert run.argv()[:3] == [sys.executable, "-m", "tri_serve.load.swarm"]
    short = KeepingRun("http://h:1", "smoke", tmp_path, kept=7).argv()
    assert short[1] == "-c"
    assert short[3:] == ["7", *run.argv()[3:]]
