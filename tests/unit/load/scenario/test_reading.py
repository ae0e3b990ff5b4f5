"""Scenario files and what overrides them: strict, with the line, the nearest key and what is allowed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tri_serve.errors import UsageError
from tri_serve.load.scenario.models import ClosedLoop, Poisson, Ramp, Scenario, Written
from tri_serve.load.scenario.reading import read_scenario, scenario_hash

GOOD = """\
title: A load
arrivals:
  kind: poisson
  rate: 2
workload:
  parts:
    - name: chat
      kind: written
      input: {fixed: 1k}
    - name: long
      kind: written
      input: {min: 100, max: 200}
warm_up: 500ms
window: 2m
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


def mistakes(path: Path, text: str | None = None, *overrides: str) -> str:
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_scenario(str(path), overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{path.parent}/", "")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mine.yaml")
    assert mistakes(tmp_path / "mine.yaml") == "mine.yaml: not a regular file"


def test_a_file_is_read_with_its_units(file: Path) -> None:
    loaded = read_scenario(str(file))
    assert loaded.scenario.arrivals == Poisson(rate=2.0)
    assert (loaded.scenario.warm_up, loaded.scenario.window) == (0.5, 120)
    part = loaded.scenario.workload.parts[0]
    assert isinstance(part, Written) and part.input.fixed == 1_000
    assert (loaded.folder, loaded.source, loaded.text) == (file.parent, str(file), GOOD)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("window", "windo", "mine.yaml:14: windo: unknown key; the nearest is window"),
        ("  rate", "  rte", "mine.yaml:4: arrivals.rte: unknown key; the nearest is rate"),
        (
            "rate: 2",
            "rate: 0",
            "mine.yaml:4: arrivals.rate: found the number 0; takes a number above 0",
        ),
        (
            "poisson",
            "poison",
            "mine.yaml:3: arrivals.kind: found the text 'poison'; takes one of closed",
        ),
        (
            "  kind: poisson\n",
            "",
            "mine.yaml:2: arrivals.kind: required, and not there; takes one of closed, ",
        ),
        ("2m", "2", ""),
        (
            "2m",
            "2 m",
            "mine.yaml:14: window: found the text '2 m'; takes a number above 0, up to",
        ),
        (
            "{fixed: 1k}",
            "{fixed: '5'}",
            "or text such as 8k, 8K or null; take the quotes away",
        ),
        ("max: 200", "max: 20", "mine.yaml:12: workload.parts[1].input.min: must not be above max"),
        ("name: long", "name: chat", "mine.yaml:6: workload.parts: two parts are named chat"),
        (
            "1k}",
            "1k}\n      languages: {de: 1}",
            "de: unknown key; takes a section with the keys ko, en, ja",
        ),
        ("title: A load\n", "", "title: required, and not there; takes text"),
        (
            "window: 2m",
            "window: 2m\nwindow: 3m",
            "mine.yaml:15: window: stands twice; it is on line 14 already",
        ),
        (
            "arrivals:",
            "arrivals: [1]\nx:",
            "mine.yaml:2: arrivals: found a list of 1; takes a section",
        ),
        ("warm_up", "\twarm_up", "mine.yaml:13: not valid YAML: a tab"),
    ],
)
def test_a_mistake_is_named_with_its_line(file: Path, old: str, new: str, said: str) -> None:
    changed = GOOD.replace(old, new, 1)
    assert changed != GOOD
    if said:
        assert said in mistakes(file, changed)
    else:
        file.write_text(changed)
        assert read_scenario(str(file)).scenario.window == 2


def test_steps_that_ask_for_nothing_are_refused(file: Path) -> None:
    steps = "arrivals={kind: steps, steps: [{rate: 0, seconds: 5s}, {rate: %s, seconds: 5s}]}"
    assert "every rate is 0" in mistakes(file, None, steps % 0)
    assert read_scenario(str(file), (steps % 1,)).scenario.arrivals.kind == "steps"


def test_every_mistake_has_its_line(file: Path) -> None:
    text = mistakes(file, GOOD.replace("title", "titel").replace("rate: 2", "rate: -1"))
    assert text.splitlines()[0] == "the scenario has 3 mistakes:"
    assert len(text.splitlines()) == 4


@pytest.mark.parametrize(
    ("text", "said"), [("", "empty"), ("[1, 2]", "found a list of 2"), ("# only\n", "empty")]
)
def test_what_is_no_scenario_is_refused(file: Path, text: str, said: str) -> None:
    assert said in mistakes(file, text)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    assert "No such file" in mistakes(tmp_path / "none.yaml")
    (tmp_path / "folder.yaml").mkdir()
    assert "Is a directory" in mistakes(tmp_path / "folder.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"title: \xff")
    assert "not UTF-8" in mistakes(tmp_path / "bytes.yaml")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="no scenario is named 'chat-kr'; the nearest is chat-ko") as caught:
        read_scenario("chat-kr")
    assert "tri-serve load scenarios" in (caught.value.hint or "")


def overridden(file: Path, *overrides: str) -> Scenario:
    return read_scenario(str(file), overrides).scenario


def test_overrides_come_on_top(file: Path) -> None:
    changed = overridden(
        file,
        "window=90s",
        "arrivals.rate=8",
        "workload.parts[1].weight=3",
        "workload.parts.chat.input.fixed=64",
        "slo.ttft=500ms",
    )
    assert changed.window == 90
    assert changed.arrivals == Poisson(rate=8.0)
    first, second = changed.workload.parts
    assert (first.weight, second.weight) == (1, 3)
    assert isinstance(first, Written) and first.input.fixed == 64
    assert changed.slo.ttft == 0.5


def test_a_section_can_be_replaced_and_a_key_reset(file: Path) -> None:
    assert overridden(file, "arrivals={kind: closed, users: 4}").arrivals == ClosedLoop(users=4)
    assert overridden(file, "arrivals={kind: ramp, to_rate: 4}").arrivals == Ramp(to_rate=4.0)
    assert overridden(file, "warm_up=null").warm_up == 10


@pytest.mark.parametrize(
    "override", ["window=60", "slo={ttft: 1.5}", "arrivals={kind: closed, users: 2, think: 3}"]
)
def test_a_duration_without_a_unit_is_refused(file: Path, override: str) -> None:
    assert "a duration without a unit; write " in mistakes(file, None, override)


def test_no_time_at_all_needs_no_unit(file: Path) -> None:
    assert overridden(file, "warm_up=0").warm_up == 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("window", "--set window: takes KEY=VALUE"),
        ("window=", "--set window: nothing follows the =; null resets a key"),
        ("windw=60s", "--set: windw: unknown key; the nearest is window"),
        ("arrivals.rate=0", "--set: arrivals.rate: found the number 0; takes a number above 0"),
        ("arrivals..rate=1", "not a key"),
        ("workload.parts[5].weight=1", "there is no item 5; the list has 2"),
        ("workload.parts.chta.weight=1", "no part is named chta; there are chat, long"),
        ("arrivals={kind: poisson", "not valid YAML"),
        ("arrivals={kind: poisson, kind: closed}", "stands twice"),
    ],
)
def test_a_wrong_override_is_named(file: Path, override: str, said: str) -> None:
    assert said in mistakes(file, None, override)


def test_the_hash_is_of_what_is_asked_for_and_not_of_how_it_is_written(file: Path) -> None:
    before = read_scenario(str(file))
    file.write_text("# a remark\n" + GOOD.replace("window: 2m", "window: 120s"))
    assert read_scenario(str(file)).hash == before.hash == scenario_hash(before.scenario)
    assert read_scenario(str(file), ["seed=2"]).hash != before.hash
