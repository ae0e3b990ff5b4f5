"""The other kinds of parts: what they ask, how long it is, what is alike and what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tri_serve.load.scenario.models import Scenario
from tri_serve.load.workload.build import WorkloadItems, build_workload
from tri_serve.load.workload.items import Item
from tri_serve.load.workload.tokenizer import FileTokenizer, Overhead

OVERHEAD = Overhead(prompt=1, user=3, system_user=5)


def built(
    tokenizer: FileTokenizer, *parts: dict[str, Any], context: int | None = None, **keys: Any
) -> WorkloadItems:
    nonce = keys.pop("nonce", "")
    described = Scenario.model_validate(
        {
            "title": "t",
            "arrivals": {"kind": "constant", "rate": 1.0},
            "workload": {"parts": tuple({"name": "a", **part} for part in parts), **keys},
        }
    )
    return build_workload(described, Path(), tokenizer, OVERHEAD, context=context, nonce=nonce)


def messages(item: Item) -> list[dict[str, str]]:
    return list(item.body["messages"])


PREFIXED = {"kind": "shared-prefix", "groups": 5, "prefix": {"fixed": 90}, "input": {"min": 12, "max": 40}}


def test_requests_of_a_group_begin_alike_and_are_exact(tokenizer: FileTokenizer) -> None:
    items = built(tokenizer, PREFIXED)
    systems = set()
    for index in range(200):
        system, user = messages(items.item(index))
        assert (system["role"], user["role"]) == ("system", "user")
        assert tokenizer.count(system["content"]) == 90
        assert 12 <= tokenizer.count(user["content"]) <= 40
        whole = 90 + tokenizer.count(user["content"]) + OVERHEAD.system_user
        assert items.item(index).input_tokens == whole
        systems.add(system["content"])
    assert len(systems) == 5


def test_a_prefix_is_exact_in_a_plain_prompt_too(tokenizer: FileTokenizer) -> None:
    items = built(tokenizer, PREFIXED | {"route": "completions"})
    for index in range(60):
        item = items.item(index)
        assert item.route == "/v1/completions"
        assert tokenizer.count(item.body["prompt"]) + OVERHEAD.prompt == item.input_tokens
        assert 90 + 12 + 1 <= item.input_tokens <= 90 + 40 + 1


def test_the_next_run_has_other_prefixes_unless_unsalted(tokenizer: FileTokenizer) -> None:
    def systems(**keys: Any) -> set[str]:
        items = built(tokenizer, PREFIXED, **keys)
        return {messages(items.item(index))[0]["content"] for index in range(100)}

    assert not systems(nonce="a") & systems(nonce="b")
    assert systems(nonce="a", salt=False) == systems(nonce="b", salt=False)


DOCUMENTS = {"kind": "documents", "documents": 3, "pool": 6, "document": {"min": 80, "max": 120}}


@pytest.mark.parametrize("language", ["ko", "en", "ja"])
def test_documents_come_first_and_the_whole_is_counted(tokenizer: FileTokenizer, language: str) -> None:
    items = built(tokenizer, DOCUMENTS | {"languages": {language: 1.0}})
    documents = set()
    for index in range(100):
        (user,) = messages(items.item(index))
        assert tokenizer.count(user["content"]) + OVERHEAD.user == items.item(index).input_tokens
        *found, question = user["content"].split("\n\n")
        assert len(found) == 3
        documents |= {text.split("] ", 1)[1] for text in found}
        assert "[" not in question
    assert len(documents) == 6
    assert all(80 <= tokenizer.count(document) <= 120 for document in documents)


def test_documents_beyond_the_context_are_left_away(tokenizer: FileTokenizer) -> None:
    items = built(tokenizer, DOCUMENTS | {"output": {"fixed": 50}}, context=350)
    assert max(items.item(index).input_tokens for index in range(50)) <= 300
    assert any("made to fit" in line for line in items.remarks)


CHATS = {
    "kind": "conversations",
    "turns": {"min": 2, "max": 4},
    "input": {"fixed": 40},
    "follow_up": {"min": 8, "max": 20},
    "output": {"fixed": 16},
    "think": 2.0,
}


def test_each_turn_sends_all_that_was_said(tokenizer: FileTokenizer) -> None:
    items = built(tokenizer, CHATS)
    lengths = set()
    for index in range(60):
        session = items.session(index)
        assert session is not None
        first = items.item(index)
        assert first == session.turn(0, ())
        assert (first.session, first.turn, first.think_seconds) == (session.id, 0, 0)
        assert first.input_tokens == 40 + OVERHEAD.user == tokenizer.count(messages(first)[0]["content"]) + 3
        answers = [f"answer {number}" for number in range(session.turns)]
        last = session.turn(session.turns - 1, answers)
        assert [message["role"] for message in messages(last)] == ["user", "assistant"] * (
            session.turns - 1
        ) + ["user"]
        assert [message["content"] for message in messages(last)[1::2]] == answers[:-1]
        assert messages(last)[0] == messages(first)[0]
        assert last.input_tokens == 0
        assert last.think_seconds > 0
        lengths.add(session.turns)
    assert lengths == {2, 3, 4}


def test_conversations_end_before_the_context_does(tokenizer: FileTokenizer) -> None:
    items = built(tokenizer, CHATS | {"turns": {"fixed": 50}}, context=400)
    session = items.session(0)
    assert session is not None
    assert session.turns < 15
    assert any("made to fit" in line for line in items.remarks)


def test_a_single_request_is_no_conversation(tokenizer: FileTokenizer) -> None:
    assert built(tokenizer, {"kind": "written", "input": {"fixed": 40}}).session(0) is None


@pytest.mark.parametrize("language", ["ko", "en", "ja"])
def test_json_is_asked_by_a_schema_that_the_answer_is_checked_by(
    tokenizer: FileTokenizer, language: str
) -> None:
    items = built(tokenizer, {"kind": "structured", "languages": {language: 1.0}})
    item = items.item(0)
    schema = item.body["response_format"]["json_schema"]["schema"]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert item.check.json_schema == schema
    assert "ignore_eos" not in item.body
    assert tokenizer.count(messages(item)[0]["content"]) + OVERHEAD.user == item.input_tokens
    # The answer is bounded: the longest that the schema takes is not long.
    longest = {
        name: max(map(str, entry.get("enum", ["false"])), key=len)
        for name, entry in schema["properties"].items()
    }
    assert len(json.dumps(longest, ensure_ascii=False)) < 250
    assert json.dumps(schema, ensure_ascii=False) in messages(item)[0]["content"]


def test_a_tool_is_offered_by_name(tokenizer: FileTokenizer) -> None:
    item = built(tokenizer, {"kind": "structured", "form": "tools"}).item(0)
    name = item.body["tools"][0]["function"]["name"]
    assert item.body["tool_choice"]["function"]["name"] == name == item.check.tool
    assert item.check.json_schema is None
    assert item.input_tokens == 0
