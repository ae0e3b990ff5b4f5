"""What is published about load tests: the verdict's bounds, and the schemas of scenarios and results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tri_serve.load.reference import verdict_page
from tri_serve.load.scenario.reading import scenario_names
from tri_serve.load.thresholds import THRESHOLDS

REPOSITORY = Path(__file__).resolve().parents[3]
REFERENCE = REPOSITORY / "docs/reference"


def schema(name: str) -> Any:
    return json.loads((REFERENCE / name).read_text())


def test_every_threshold_has_a_row_with_its_bounds() -> None:
    page = verdict_page("first")
    assert page.startswith("first\n# ")
    for threshold in THRESHOLDS:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{threshold.name}` |")]
        assert row.count(" | ") == 5
        assert threshold.what in row
    (row,) = [line for line in page.splitlines() if line.startswith("| `loop-lag` |")]
    assert "| 2.5 ms | 5 ms |" in row
    (row,) = [line for line in page.splitlines() if line.startswith("| `not-sent` |")]
    assert "| 0.1% | 2% |" in row


def test_every_shipped_scenario_is_one_by_the_published_schema() -> None:
    validator = jsonschema.Draft202012Validator(schema("scenario.schema.json"))
    names = scenario_names()
    assert "chat-ko" in names
    for name in names:
        document = yaml.safe_load((REPOSITORY / "loadtests/scenarios" / f"{name}.yaml").read_text())
        assert [error.message for error in validator.iter_errors(document)] == [], name


@pytest.mark.parametrize(
    "change", [{"windw": "60s"}, {"window": -1}, {"arrivals": {"kind": "poisson"}}, {"workload": {}}]
)
def test_the_published_schema_refuses_what_a_scenario_refuses(change: dict[str, Any]) -> None:
    document = yaml.safe_load((REPOSITORY / "loadtests/scenarios/chat-ko.yaml").read_text())
    validator = jsonschema.Draft202012Validator(schema("scenario.schema.json"))
    assert list(validator.iter_errors({**document, **change}))
