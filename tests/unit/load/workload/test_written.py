"""Prompts of exact lengths, the same in every process, none of them in a cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tri_serve.checkpoint.tiny as tiny
from tri_serve.errors import UsageError
from tri_serve.load.scenario.models import Constant, Scenario
from tri_serve.load.workload.build import WorkloadItems, build_workload
from tri_serve.load.workload.tokenizer import FileTokenizer, Guess, Overhead

OVERHEAD = Overhead(prompt=1, user=3, system_user=5)


def scenario(*parts: dict[str, Any], **workload: Any) -> Scenario:
    return Scenario.model_validate(
        {
            "title": "t",
            "arrivals": {"kind": "constant", "rate": 1.0},
            "workload": {
                "parts": tuple({"kind": "written", "name": "a", **part} for part in parts),
                **workload,
            },
        }
    )


def built(described: Scenario, tokenizer: FileTokenizer | Guess, **keys: Any) -> WorkloadItems:
    return build_workload(described, Path(), tokenizer, OVERHEAD, **keys)


def text(body: Any) -> str:
    return str(body["prompt"] if "prompt" in body else body["messages"][-1]["content"])


@pytest.mark.parametrize("language", ["ko", "en", "ja"])
@pytest.mark.parametrize("salt", [True, False])
@pytest.mark.parametrize("route", ["chat", "completions"])
def test_every_prompt_is_exactly_as_long_as_asked(
    tokenizer: FileTokenizer, language: str, salt: bool, route: str
) -> None:
    part = {"input": {"min": 30, "max": 400}, "languages": {language: 1.0}, "route": route}
    items = built(scenario(part, salt=salt), tokenizer)
    added = OVERHEAD.user if route == "chat" else OVERHEAD.prompt
    lengths = set()
    for index in range(150):
        item = items.item(index)
        assert tokenizer.count(text(item.body)) + added == item.input_tokens
        assert 30 <= item.input_tokens <= 400
        assert text(item.body) == text(item.body).strip()
        lengths.add(item.input_tokens)
    assert len(lengths) > 50
    assert not [line for line in items.remarks if "off" in line or "fit" in line]


def test_long_prompts_are_exact_too(tokenizer: FileTokenizer) -> None:
    item = built(scenario({"input": {"fixed": 7_001}}), tokenizer).item(3)
    assert tokenizer.count(text(item.body)) + OVERHEAD.user == 7_001
    assert "\ufffd" not in text(item.body)


def test_items_are_the_same_in_every_process_and_order(tokenizer: FileTokenizer) -> None:
    parts = ({"input": {"fixed": 40}}, {"name": "b", "input": {"fixed": 60}, "weight": 3.0})
    one, other = (built(scenario(*parts), tokenizer, nonce="x") for _ in range(2))
    forward = [one.item(index) for index in range(40)]
    backward = [other.item(index) for index in reversed(range(40))]
    assert forward == backward[::-1]
    assert one.hash == other.hash


def test_parts_are_asked_by_their_weights(tokenizer: FileTokenizer) -> None:
    parts = ({"input": {"fixed": 40}}, {"name": "b", "input": {"fixed": 60}, "weight": 3.0})
    items = built(scenario(*parts), tokenizer)
    groups = [items.item(index).group for index in range(2_000)]
    assert 0.70 < groups.count("b") / 2_000 < 0.80


def test_no_two_prompts_begin_alike_and_no_run_repeats_the_last(tokenizer: FileTokenizer) -> None:
    first, second = (built(scenario({"input": {"fixed": 40}}), tokenizer, nonce=nonce) for nonce in "ab")
    starts = [text(run.item(index).body)[:12] for run in (first, second) for index in range(3_000)]
    assert len(set(starts)) == len(starts)
    assert first.hash == second.hash


def test_another_seed_asks_something_else(tokenizer: FileTokenizer) -> None:
    described = scenario({"input": {"fixed": 40}}, salt=False)
    other = described.model_copy(update={"seed": 2})
    assert built(described, tokenizer).item(0).body != built(other, tokenizer).item(0).body
    assert built(described, tokenizer).hash != built(other, tokenizer).hash


def test_unsalted_prompts_that_come_again_are_said(tokenizer: FileTokenizer) -> None:
    described = scenario({"input": {"fixed": 8_000}}, salt=False)
    assert built(described, tokenizer).remarks == ()
    longer = described.model_copy(update={"arrivals": Constant(rate=10.0)})
    items = built(longer, tokenizer)
    assert items.remarks == ("a: 250 different prompts, unsalted; then they come again",)
    assert items.item(250).body == items.item(0).body


def test_prompts_that_do_not_fit_are_clipped_and_counted(tokenizer: FileTokenizer) -> None:
    part = {"input": {"min": 50, "max": 900}, "output": {"fixed": 100}}
    items = built(scenario(part), tokenizer, context=600)
    assert max(items.item(index).input_tokens for index in range(100)) == 500
    assert any("prompts were drawn too short or too long" in line for line in items.remarks)
    with pytest.raises(UsageError, match="from 50 tokens with answers up to 100 do not fit into the 120"):
        built(scenario(part), tokenizer, context=120)


def test_ignoring_eos_makes_the_length_a_check(tokenizer: FileTokenizer) -> None:
    part = {"input": {"fixed": 40}, "output": {"fixed": 7}}
    item = built(scenario(part), tokenizer).item(0)
    assert item.body["ignore_eos"] is True
    assert (item.body["max_tokens"], item.output_tokens, item.check.exact_tokens) == (7, 7, 7)
    free = built(scenario(part | {"ignore_eos": False}), tokenizer).item(0)
    assert "ignore_eos" not in free.body
    assert free.check.exact_tokens is None


def test_without_a_tokenizer_lengths_are_said_to_be_guesses() -> None:
    items = built(scenario({"input": {"fixed": 200}}), Guess())
    assert items.item(0).input_tokens == 0
    assert any("lengths are guessed" in line for line in items.remarks)


def test_without_the_template_the_length_is_not_known(tokenizer: FileTokenizer) -> None:
    items = build_workload(scenario({"input": {"fixed": 200}}), Path(), tokenizer)
    assert items.item(0).input_tokens == 0
    assert tokenizer.count(text(items.item(0).body)) == 200
    assert any("chat template" in line for line in items.remarks)


ANOTHER_PROCESS = """
import sys
from pathlib import Path
from tri_serve.load.scenario.reading import read_scenario
from tri_serve.load.workload.build import build_workload
from tri_serve.load.workload.tokenizer import FileTokenizer, Overhead
loaded = read_scenario("soak")
tokenizer = FileTokenizer(Path(sys.argv[1]))
items = build_workload(loaded.scenario, loaded.folder, tokenizer, Overhead(1, 3, 5), nonce="run")
print(items.hash, [items.item(index).body for index in (7, 3)])
"""


def test_processes_with_other_hash_seeds_ask_the_same() -> None:
    assert tiny.__file__ is not None
    path = Path(tiny.__file__).parent / "bf16" / "tokenizer.json"
    said = {
        subprocess.run(
            [sys.executable, "-c", ANOTHER_PROCESS, str(path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=100,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    assert len(said.pop()) > 500
