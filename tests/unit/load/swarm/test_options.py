"""Locust's parsed options as a scenario."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import configargparse  # type: ignore[import-untyped]
import pytest

from tri_serve.errors import UsageError
from tri_serve.load.scenario.models import ClosedLoop, Poisson
from tri_serve.load.swarm.options import (
    add_options,
    form_options,
    key_goes_to,
    key_of,
    run_folder,
    scenario_of,
    take_over,
)

TEXT = """
title: Some load
arrivals: {kind: poisson, rate: 4}
workload:
  parts:
    - {kind: written, name: chat, input: {fixed: 64}, output: {fixed: 16}}
slo: {ttft: 1s}
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "some.yaml").write_text(TEXT)
    return str(tmp_path / "some.yaml")


def options(scenario: str, **given: Any) -> SimpleNamespace:
    none = dict.fromkeys(
        ("request_rate", "max_concurrency", "duration", "warm_up", "num_prompts", "seed", "slo"), ""
    )
    locusts = {"num_users": None, "spawn_rate": None, "run_time": None}
    return SimpleNamespace(scenario=scenario, set=[], **{**none, **locusts, **given})


def test_without_options_the_scenario_is_as_it_is_written(path: str) -> None:
    assert scenario_of(options(path)).scenario.arrivals == Poisson(rate=4.0)


def test_locusts_own_options_mean_what_they_say(path: str) -> None:
    given = options(path, num_users=20, spawn_rate=5.0, run_time=90)
    take_over(given)
    scenario = scenario_of(given).scenario
    assert scenario.arrivals == ClosedLoop(users=20, stagger=4.0)
    assert scenario.window == 90.0
    # Locust must not stop the run by its own clock, nor spawn by its own numbers.
    assert (given.run_time, given.num_users, given.spawn_rate) == (None, None, None)


def test_ours_win_over_locusts(path: str) -> None:
    given = options(path, num_users=20, max_concurrency="3", run_time=90, duration="5s")
    take_over(given)
    scenario = scenario_of(given).scenario
    assert scenario.arrivals == ClosedLoop(users=3)
    assert scenario.window == 5.0


def test_an_slo_replaces_the_scenarios_own_and_changes_its_hash(path: str) -> None:
    plain, promised = scenario_of(options(path)), scenario_of(options(path, slo="tpot=50ms"))
    assert str(promised.scenario.slo) == "tpot=50ms"
    assert promised.overrides == ("slo=tpot=50ms",)
    assert promised.hash != plain.hash


def test_the_key_is_of_the_environment() -> None:
    assert key_of({}) is None
    assert key_of({"OPENAI_API_KEY": "b"}) == "b"
    assert key_of({"TRI_SERVE_API_KEY": "a", "OPENAI_API_KEY": "b"}) == "a"


def test_a_second_run_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    assert run_folder(str(tmp_path), "one") == tmp_path
    (tmp_path / "result.json").touch()
    assert run_folder(str(tmp_path), "two") == tmp_path / "two"


def parsed(*words: str) -> Any:
    # Locust's own parser is this one; importing it would patch the sockets of the whole test process.
    parser = configargparse.ArgumentParser()
    parser.add_argument("--web-host", default="", help="Defaults to '*' (all interfaces)")
    add_options(parser)
    return parser.parse_args(list(words))


def test_the_web_ui_is_for_this_machine_unless_told_otherwise() -> None:
    assert parsed().web_host == "127.0.0.1"
    assert parsed("--web-host", "*").web_host == "*"


def test_the_form_changes_the_load_and_nothing_that_names_a_file_or_a_page(path: str) -> None:
    start = parsed("--scenario", path, "--results", "mine")
    posted = SimpleNamespace(**vars(start))
    for name in ("tokenizer", "results", "ca_file", "records", "insecure"):
        setattr(posted, name, "/etc/passwd")
    posted.set = ["workload.parts[0].path=/etc/passwd"]
    posted.scrape = ["x=http://elsewhere"]
    posted.request_rate, posted.scenario = "7", "chat-ko"
    run = form_options(start, posted)
    assert (run.scenario, run.request_rate) == ("chat-ko", "7")
    assert (run.tokenizer, run.results, run.ca_file, run.records) == ("", "mine", "", "full")
    assert (run.set, run.scrape, run.insecure) == ([], [], False)


def test_the_form_takes_the_scenario_file_of_the_start_and_no_other(path: str, tmp_path: Path) -> None:
    start = parsed("--scenario", path)
    assert form_options(start, SimpleNamespace(**vars(start))).scenario == path
    (tmp_path / "other.yaml").write_text(TEXT)
    for other in (str(tmp_path / "other.yaml"), "/etc/passwd"):
        with pytest.raises(UsageError, match="no scenario is named"):
            form_options(start, SimpleNamespace(**{**vars(start), "scenario": other}))


@pytest.mark.parametrize(
    ("url", "start", "sent"),
    [
        ("http://a:8000", "http://a:8000/v1", True),
        ("http://a:8001", "http://a:8000", False),
        ("http://b:8000", "http://a:8000", False),
        ("http://a", "https://a", False),
        ("http://a:8000", None, False),
    ],
)
def test_the_key_goes_to_the_server_of_the_start_alone(url: str, start: str | None, sent: bool) -> None:
    assert key_goes_to(url, start) is sent
