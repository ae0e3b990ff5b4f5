"""What a server counts is what was written: the prompt tokens that it reports are those of the items."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tri_serve.load.scenario.models import Scenario
from tri_serve.load.workload.build import WorkloadItems, build_workload
from tri_serve.load.workload.tokenizer import by_one_token, by_tokenize, load_tokenizer, measure_overhead

PARTS: list[dict[str, Any]] = [
    {"kind": "written", "input": {"min": 90, "max": 900}, "languages": {"ko": 1.0, "en": 1.0, "ja": 1.0}},
    {"kind": "written", "input": {"min": 90, "max": 900}, "route": "completions"},
    {"kind": "shared-prefix", "groups": 2, "prefix": {"fixed": 120}, "input": {"min": 20, "max": 90}},
    {"kind": "documents", "document": {"min": 90, "max": 200}, "pool": 8},
    {"kind": "conversations", "input": {"min": 60, "max": 300}},
    {"kind": "structured"},
]


def post(url: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    data = json.dumps({"model": "tri-mock", **body}).encode()
    asked = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


CASES = [*(("tokenize", part) for part in PARTS), ("one token", PARTS[0])]


@pytest.mark.parametrize(("way", "part"), CASES)
def test_the_server_counts_as_many_tokens_as_were_written(
    mock_engine: Callable[..., str], part: dict[str, Any], way: str
) -> None:
    url = mock_engine("--ttft-ms", "0", "--itl-ms", "0")

    def ask(body: Mapping[str, Any]) -> Mapping[str, Any]:
        return post(url, "/tokenize", body)

    counted = (
        by_tokenize(ask) if way == "tokenize" else by_one_token(lambda route, body: post(url, route, body))
    )
    tokenizer = load_tokenizer(ask)
    described = Scenario.model_validate(
        {
            "title": "t",
            "arrivals": {"kind": "constant", "rate": 1.0},
            "workload": {"parts": ({"name": "a", **part},)},
        }
    )
    items: WorkloadItems = build_workload(
        described, Path(), tokenizer, measure_overhead(counted, tokenizer), nonce="run"
    )
    for index in range(12):
        item = items.item(index)
        answer = post(url, item.route, {**item.body, "max_tokens": 1})
        assert answer["usage"]["prompt_tokens"] == item.input_tokens > 0
