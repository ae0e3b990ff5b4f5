"""When two clients are said to agree, and when not."""

from __future__ import annotations

import pytest

from benchmarks.load.agreement import KEYS, TOTALS, compared, judged


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ([0.1, 0.11, 0.09], "agrees"),
        ([0.9, 0.91, 0.89], "differs"),
        ([-0.9, -0.91, -0.89], "differs"),
        # As far off, and so uneven that nothing is known.
        ([3.0, -2.0, 1.7], "not said"),
    ],
)
def test_noise_passes_neither_for_agreement_nor_for_difference(differences: list[float], word: str) -> None:
    assert judged(differences, 0.5) == word


@pytest.mark.parametrize("rounds", [1, 2])
def test_too_few_rounds_cannot_agree(rounds: int) -> None:
    assert judged([0.0] * rounds, 0.5) == "not said"
    assert judged([9.0] * rounds, 0.5) == "not said"


def test_counts_must_be_the_same_in_every_round() -> None:
    assert judged([0.0], 0.0) == "agrees"
    assert judged([0.0, 0.0, 1.0], 0.0) == "differs"


def words(**changed: float) -> dict[str, str]:
    ours = dict.fromkeys((*TOTALS, *KEYS), 10.0)
    return {line.name: line.word for line in compared([ours | changed] * 3, [ours] * 3, [True] * 3)}


def test_every_figure_has_a_line() -> None:
    assert set(words()) == {*TOTALS, *KEYS, "e2el less ttft"}


def test_a_round_of_a_late_server_gives_counts_and_no_times() -> None:
    theirs = dict.fromkeys((*TOTALS, *KEYS), 10.0)
    late = theirs | {"mean_itl_ms": 99.0, "duration": 99.0, "completed": 9.0}
    found = {line.name: line for line in compared([theirs] * 3 + [late], [theirs] * 4, [True] * 3 + [False])}
    assert found["mean_itl_ms"].word == found["duration"].word == "agrees"
    assert found["completed"].word == "differs"
    none = {line.name: line for line in compared([late], [theirs], [False])}
    assert none["mean_itl_ms"].word == "not said"


def test_a_clock_that_starts_elsewhere_moves_ttft_and_e2el_together_and_nothing_else() -> None:
    clocks = words(median_ttft_ms=8.0, median_e2el_ms=8.0)
    assert clocks["median_ttft_ms"] == "by definition"
    assert clocks["e2el less ttft"] == "agrees"
    assert words(median_ttft_ms=8.0)["e2el less ttft"] == "differs"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("duration", 10.02),
        ("request_throughput", 10.02),
        ("request_goodput", 9.9),
        ("total_output_tokens", 11.0),
        ("max_concurrent_requests", 12.0),
        ("max_output_tokens_per_s", 13.0),
        ("mean_itl_ms", 10.6),
    ],
)
def test_a_figure_that_is_another_one_is_found(name: str, value: float) -> None:
    found = words(**{name: value})
    assert found[name] == "differs"
    assert [word for other, word in found.items() if other != name and word == "differs"] == []
