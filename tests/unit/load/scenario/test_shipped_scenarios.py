"""The scenarios that ship: each reads, fits the tiny checkpoint unless it is for a GPU, and says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

import tri_serve.checkpoint.tiny as tiny
from tri_serve.checkpoint.tiny import pairs
from tri_serve.load.scenario.models import ClosedLoop, Scenario
from tri_serve.load.scenario.reading import read_scenario, scenario_folder, scenario_hash, scenario_names
from tri_serve.load.schedule import Schedule
from tri_serve.load.workload.build import build_workload
from tri_serve.load.workload.tokenizer import FileTokenizer, Overhead
from tri_serve.spec.descriptions import DescribedSchema

CONTEXT = 8_192
"""Of the tiny checkpoint."""


def tokenizer() -> FileTokenizer:
    assert tiny.__file__ is not None
    return FileTokenizer(Path(tiny.__file__).parent / "bf16" / "tokenizer.json")


def test_what_is_promised_ships() -> None:
    assert set(scenario_names()) >= {
        *(
            "chat-ko",
            "chat-en",
            "chat-ja",
            "chat-mixed",
            "rag-ko",
            "shared-prefix",
            "conversations-ko",
            "json-ko",
        ),
        *("burst", "ramp", "soak", "smoke"),
    }


@pytest.mark.parametrize("name", scenario_names())
def test_every_scenario_can_be_asked(name: str) -> None:
    loaded = read_scenario(name)
    assert loaded.text.startswith("# ")
    items = build_workload(
        loaded.scenario, loaded.folder, tokenizer(), Overhead(0, 3, 5), context=CONTEXT, nonce="n"
    )
    asked = [items.item(index) for index in range(60)]
    assert all(item.input_tokens + item.output_tokens <= CONTEXT for item in asked)
    assert {item.group for item in asked} >= {part.name for part in loaded.scenario.workload.parts}
    clipped = [line for line in items.remarks if "made to fit" in line]
    assert not clipped or name.endswith("-gpu")


@pytest.mark.parametrize("name", [name for name in scenario_names() if not name.endswith("-gpu")])
def test_no_more_is_asked_than_a_small_machine_can_give(name: str) -> None:
    loaded = read_scenario(name)
    assert not isinstance(loaded.scenario.arrivals, ClosedLoop)
    items = build_workload(loaded.scenario, loaded.folder, tokenizer(), Overhead(0, 3, 5), context=CONTEXT)
    output = sum(items.item(index).output_tokens for index in range(100)) / 100
    schedule = Schedule(loaded.scenario)
    # Meant for engines on the cores of one small machine: one that takes a request at a time gave 172 on two.
    assert schedule.expected() / schedule.longest * output < 150


def test_the_golden_answers_are_those_that_the_tiny_checkpoint_was_taught() -> None:
    known = {pair.question: pair.answer for pair in pairs()}
    lines = (scenario_folder() / "golden-tiny.jsonl").read_text(encoding="utf-8").splitlines()
    golden = [json.loads(line) for line in lines]
    assert len(golden) >= 12
    for entry in golden:
        assert entry["answer"] == known[entry["messages"][0]["content"]]
        assert tokenizer().count(entry["answer"]) < entry["max_tokens"]


@pytest.mark.parametrize("name", scenario_names())
def test_every_scenario_fits_the_published_schema_and_survives_a_copy_as_json(name: str) -> None:
    loaded = read_scenario(name)
    schema = Scenario.model_json_schema(schema_generator=DescribedSchema)
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(loaded.text))
    copy = Scenario.model_validate_json(loaded.scenario.model_dump_json())
    assert copy == loaded.scenario
    assert scenario_hash(copy) == loaded.hash
