"""Options that stand for keys of a scenario, and what they say to what they cannot take."""

from __future__ import annotations

from pathlib import Path

import pytest

from tri_serve.errors import UsageError
from tri_serve.load.scenario.models import ClosedLoop, Gamma, Poisson
from tri_serve.load.scenario.reading import read_scenario
from tri_serve.load.scenario.short import Short

TEXT = """
title: Some load
arrivals: {arrivals}
workload:
  parts:
    - {{kind: written, name: chat, input: {{fixed: 64}}, output: {{fixed: 16}}}}
"""


@pytest.fixture
def gamma(tmp_path: Path) -> str:
    path = tmp_path / "gamma.yaml"
    path.write_text(TEXT.format(arrivals="{kind: gamma, rate: 4, burstiness: 0.5}"))
    return str(path)


@pytest.fixture
def closed(tmp_path: Path) -> str:
    path = tmp_path / "closed.yaml"
    path.write_text(TEXT.format(arrivals="{kind: closed, users: 3}"))
    return str(path)


def test_a_rate_keeps_the_arrivals_that_have_one(gamma: str) -> None:
    scenario = read_scenario(gamma, Short(request_rate="7.5").overrides(gamma)).scenario
    assert scenario.arrivals == Gamma(rate=7.5, burstiness=0.5)


def test_a_rate_makes_an_open_loop_of_a_closed_one(closed: str) -> None:
    scenario = read_scenario(closed, Short(request_rate="2").overrides(closed)).scenario
    assert scenario.arrivals == Poisson(rate=2.0)


def test_concurrency_without_a_rate_is_a_closed_loop(gamma: str) -> None:
    arrivals = read_scenario(gamma, Short(max_concurrency="32").overrides(gamma)).scenario.arrivals
    assert isinstance(arrivals, ClosedLoop)
    assert arrivals.users == 32


def test_concurrency_with_a_rate_bounds_what_is_open(gamma: str) -> None:
    short = Short(request_rate="2", max_concurrency="32").overrides(gamma)
    scenario = read_scenario(gamma, short).scenario
    assert scenario.most_open == 32
    assert isinstance(scenario.arrivals, Gamma)


def test_the_other_options_set_their_keys(gamma: str) -> None:
    short = Short(duration="90s", warm_up="500ms", num_prompts="12", seed="0")
    scenario = read_scenario(gamma, short.overrides(gamma)).scenario
    assert (scenario.window, scenario.warm_up, scenario.requests, scenario.seed) == (90.0, 0.5, 12, 0)


def test_set_says_more_exactly_what_is_meant(gamma: str) -> None:
    short = Short(duration="90s").overrides(gamma, ("window=10s",))
    assert read_scenario(gamma, short).scenario.window == 10.0


def test_a_rate_set_beside_a_number_of_users_is_told_which_option_is_meant(gamma: str) -> None:
    with pytest.raises(
        UsageError, match=r"--set arrivals\.rate=5: the closed loop of --max-concurrency 8"
    ) as no:
        Short(max_concurrency="8").overrides(gamma, ("arrivals.rate=5",))
    assert no.value.hint is not None
    assert no.value.hint.startswith("--request-rate 5 --max-concurrency 8 ")
    # With a rate of its own the loop is open, and --set says more exactly what is meant.
    both = Short(max_concurrency="8", request_rate="2").overrides(gamma, ("arrivals.rate=5",))
    assert read_scenario(gamma, both).scenario.arrivals == Gamma(rate=5, burstiness=0.5)


def test_the_bounds_are_those_of_a_scenario_s_keys(gamma: str) -> None:
    ends = Short(duration="24h", warm_up="0s", num_prompts="100000000", seed=str(2**63 - 1))
    assert read_scenario(gamma, ends.overrides(gamma)).scenario.seed == 2**63 - 1
    for most, rate in (("100000", ""), ("1000000", "2")):
        read_scenario(gamma, Short(max_concurrency=most, request_rate=rate).overrides(gamma))


@pytest.mark.parametrize(
    ("short", "words"),
    [
        (Short(duration="60"), "--duration 60: a duration without a unit; write 60s, 60ms or 60m"),
        (Short(warm_up="1"), "--warm-up 1: a duration without a unit; write 1s, 1ms or 1m"),
        (Short(duration="soon"), "--duration soon: not a duration; write it as 500ms, 60s, 2m or 1h"),
        (Short(request_rate="0"), "--request-rate 0: a number above 0"),
        (Short(request_rate="-1"), "--request-rate -1: a number above 0"),
        (Short(request_rate="nan"), "--request-rate nan: a number above 0"),
        (Short(request_rate="inf"), "--request-rate inf: a number above 0"),
        (Short(request_rate="8/s"), "--request-rate 8/s: a number above 0"),
        (Short(max_concurrency="0"), "--max-concurrency 0: a whole number from 1 to 100000"),
        (Short(max_concurrency="100001"), "--max-concurrency 100001: a whole number from 1 to 100000"),
        (Short(num_prompts="0"), "--num-prompts 0: a whole number from 1 to"),
        (Short(num_prompts="100000001"), "--num-prompts 100000001: a whole number"),
        (Short(seed="x"), "--seed x: a whole number from 0 to"),
        (Short(duration="0s"), "--duration 0s: a duration above 0 and up to a day"),
        (Short(duration="25h"), "--duration 25h: a duration above 0 and up to a day"),
        (Short(warm_up="25h"), "--warm-up 25h: a duration from 0 on and up to a day"),
    ],
)
def test_what_cannot_be_taken_is_refused_in_one_line_that_names_the_option(
    short: Short, words: str, gamma: str
) -> None:
    with pytest.raises(UsageError) as refused:
        short.overrides(gamma)
    assert str(refused.value).startswith(words)
    assert "\n" not in str(refused.value)
