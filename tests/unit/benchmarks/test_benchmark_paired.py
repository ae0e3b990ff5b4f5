"""What rounds against a real engine are said to show, and that both clients are given the same to do."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load.agreement_engine import broken, write_prompts
from benchmarks.load.engine_clients import Turn, from_written, late, read_prompts
from benchmarks.load.paired import NAMES, WRITTEN, Line, compared, exit_code, judged, promised, table

WIGGLE = (0.4, -0.4, 0.2, -0.2, 0.0)
"""Of five rounds: its mean is 0, its interval reaches 0.4 to each side."""


def turn(**changed: float) -> Turn:
    values = {"requests": 50, "tokens": 8, "rate": 2.0, "burstiness": 1.0, "seed": 7, **changed}
    return Turn(url="http://x", model="m", prompts="p", salt="s", **values)  # type: ignore[arg-type]


def lines(off: dict[str, float], rounds: int = 5, size: float = 100.0) -> dict[str, Line]:
    """Of clients that agree but for these figures, which are off by so much on average."""
    theirs = [dict.fromkeys(NAMES, size) for _ in range(rounds)]
    ours = [
        one | {name: size + by + WIGGLE[n % len(WIGGLE)] for name, by in off.items()}
        for n, one in enumerate(theirs)
    ]
    return {line.name: line for line in compared(ours, theirs)}


@pytest.mark.parametrize(
    ("differences", "size", "word"),
    [
        # Holds 0, and is far wider than what is allowed.
        ([3.0, -2.0, 1.5, -1.0, 0.5], 1000.0, "agrees"),
        # Likewise, of a figure that is no larger than the interval.
        ([3.0, -2.0, 1.5, -1.0, 0.5], 10.0, "not said"),
        # Never 0, and always within what is allowed.
        ([0.2, 0.21, 0.19, 0.2, 0.2], 10.0, "agrees"),
        ([0.9, 0.91, 0.89, 0.9, 0.9], 10.0, "differs"),
        ([-0.9, -0.91, -0.89, -0.9, -0.9], 10.0, "differs"),
        # Off, and perhaps by less than what is allowed.
        ([0.3, 0.5, 0.7, 0.5, 0.5], 10.0, "not said"),
        ([0.0, 0.0, 0.0, 0.0], 10.0, "not said"),
        ([9.0], 10.0, "not said"),
    ],
)
def test_a_word_needs_an_interval_that_can_bear_it(differences: list[float], size: float, word: str) -> None:
    assert judged(differences, size, 0.5)[0] == word


def test_counts_must_be_the_same_in_every_round_however_few() -> None:
    assert judged([0.0], 10.0, 0.0)[0] == "agrees"
    assert judged([0.0, 0.0, 1.0], 10.0, 0.0)[0] == "differs"


def test_every_figure_has_a_line_and_a_place_in_the_table() -> None:
    found = lines({})
    assert tuple(found) == NAMES
    assert all(line.word == "agrees" for line in found.values())
    printed = table(list(found.values())).splitlines()
    assert [row.split()[0] for row in printed[1:]] == [name.split()[0] for name in NAMES]


@pytest.mark.parametrize("name", ["mean_ttft_ms", "median_ttft_ms", "mean_e2el_ms", "median_e2el_ms"])
def test_an_earlier_clock_is_a_cause_only_if_nothing_is_left_without_it(name: str) -> None:
    assert lines({name: -5.0})[name].word == "by definition"
    assert lines({name: -5.0, name + WRITTEN: -4.0})[name].word == "differs"
    # With the later clock ours would be longer.
    assert lines({name: 5.0})[name].word == "differs"
    theirs = [dict.fromkeys(NAMES, 100.0) for _ in range(5)]
    unsteady = [
        one | {name: 95.0, name + WRITTEN: 100 + by}
        for one, by in zip(theirs, (30, -9, 0, 9, -9), strict=True)
    ]
    assert {line.name: line for line in compared(unsteady, theirs)}[name].word == "not said"


@pytest.mark.parametrize("name", ["mean_itl_ms", "median_tpot_ms", "output_throughput", "duration"])
def test_no_clock_excuses_other_figures(name: str) -> None:
    found = lines({name: -5.0})
    assert found[name].word == "differs"
    assert [line.name for line in found.values() if line.word != "agrees"] == [name]
    assert exit_code(list(found.values())) == 1


def test_the_exit_code_is_that_of_promised_figures() -> None:
    assert exit_code(list(lines({}).values())) == 0
    assert exit_code(list(lines({"mean_ttft_ms": -5.0}).values())) == 0
    assert exit_code(list(lines({}, rounds=4).values())) == 2
    for tail in ("p99_itl_ms", "std_tpot_ms", "max_concurrent_requests"):
        found = lines({tail: 50.0})
        assert found[tail].word == "differs"
        assert not promised(tail)
        assert exit_code(list(found.values())) == 0


def test_a_single_round_has_no_interval_and_is_json() -> None:
    line = lines({}, rounds=1)["mean_itl_ms"]
    assert (line.low, line.high, line.ours_sd) == (None, None, 0.0)


def test_answers_that_are_shorter_than_asked_for_are_named() -> None:
    found = list(lines({}).values())
    assert broken(found, 100) == []
    assert len(broken(found, 101)) == 2
    assert broken(list(lines({"mean_itl_ms": 5.0}).values()), 100) == ["mean_itl_ms differs by +5"]


@pytest.mark.parametrize("burstiness", [0.5, 1.0, 4.0])
def test_arrivals_are_those_that_vllm_draws(burstiness: float) -> None:
    """As get_request of vllm/benchmarks/serve.py 0.32 does it, with numpy's global generator."""
    np.random.seed(7)
    theta = 1.0 / (2.0 * burstiness)
    delays = [np.random.gamma(shape=burstiness, scale=theta) for _ in range(50)]
    for i in range(1, len(delays)):
        delays[i] += delays[i - 1]
    factor = 50 / 2.0 / delays[-1]
    assert turn(burstiness=burstiness).arrivals() == pytest.approx([one * factor for one in delays])
    assert turn(burstiness=burstiness).arrivals() != turn(burstiness=burstiness, seed=8).arrivals()


def test_a_salt_is_sent_only_where_there_is_one() -> None:
    assert turn().extra_body() == {"temperature": 0.0, "cache_salt": "s"}
    assert "cache_salt" not in Turn("http://x", "m", "p", 1, 1, 1.0, 1.0, 0, "").extra_body()


def test_lateness_has_no_clock() -> None:
    assert late([100.5, 101.502, 103.5], [0.5, 1.5, 3.5]) == pytest.approx([0.0, 2.0, 0.0], abs=1e-6)


def test_summaries_are_numpys_as_vllms_are() -> None:
    found = from_written([1.0, 2.0, 9.0], [10.0, 10.0, 10.0])
    assert found["mean_ttft_ms" + WRITTEN] == 4.0
    assert found["median_ttft_ms" + WRITTEN] == 2.0
    assert found["std_ttft_ms" + WRITTEN] == pytest.approx(math.sqrt(38 / 3))
    assert found["p99_e2el_ms" + WRITTEN] == 10.0


def test_prompts_are_all_different_and_the_same_of_one_seed(tmp_path: Path) -> None:
    write_prompts(tmp_path / "a.json", 9, seed=3)
    write_prompts(tmp_path / "b.json", 9, seed=3)
    prompts = read_prompts(tmp_path / "a.json")
    assert len(set(prompts)) == 9
    assert prompts == read_prompts(tmp_path / "b.json")


def test_conversations_that_vllm_leaves_out_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    whole = {"conversations": [{"value": "asked"}, {"value": "answered"}]}
    path.write_text(json.dumps([{"conversations": [{"value": "alone"}]}, {}, whole]))
    assert read_prompts(path) == ["asked"]
