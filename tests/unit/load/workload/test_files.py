"""Prompts of files: what is taken, what is left out and said, what is refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tri_serve.errors import UsageError
from tri_serve.load.scenario.models import Scenario
from tri_serve.load.workload import file_formats
from tri_serve.load.workload.build import WorkloadItems, build_workload
from tri_serve.load.workload.tokenizer import FileTokenizer, Overhead

OVERHEAD = Overhead(prompt=1, user=3, system_user=5)
WRITTEN = {"name": "w", "kind": "written", "input": {"fixed": 40}}


def built(
    tokenizer: FileTokenizer, folder: Path, part: dict[str, Any], *, context: int | None = None, **keys: Any
) -> WorkloadItems:
    described = Scenario.model_validate(
        {
            "title": "t",
            "arrivals": {"kind": "constant", "rate": 1.0},
            "workload": {"parts": ({"name": "f", **part},), "salt": False, **keys},
        }
    )
    return build_workload(described, folder, tokenizer, OVERHEAD, context=context)


def sharegpt(folder: Path, *entries: Any) -> dict[str, Any]:
    (folder / "chats.json").write_text(json.dumps(entries), encoding="utf-8")
    return {"kind": "file", "path": "chats.json", "format": "sharegpt", "shuffle": False}


def chat(question: Any, answer: Any) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


def jsonl(folder: Path, *lines: Any) -> dict[str, Any]:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "asked.jsonl").write_text(text, encoding="utf-8")
    return {"kind": "file", "path": "asked.jsonl", "format": "openai-jsonl", "shuffle": False}


@pytest.mark.parametrize("kind", ["openai-jsonl", "sharegpt"])
def test_a_pipe_is_refused_and_not_waited_for(tokenizer: FileTokenizer, tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "asked")
    with pytest.raises(UsageError, match="asked: not a regular file"):
        built(tokenizer, tmp_path, {"kind": "file", "path": "asked", "format": kind})


@pytest.mark.parametrize("kind", ["openai-jsonl", "sharegpt"])
def test_a_file_beyond_the_bound_is_refused(
    tokenizer: FileTokenizer, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_formats, "MOST_BYTES", 1000)
    (tmp_path / "asked").write_text("{}\n" * 500)
    with pytest.raises(UsageError, match="asked: larger than"):
        built(tokenizer, tmp_path, {"kind": "file", "path": "asked", "format": kind})


def test_sharegpt_asks_the_first_message_for_an_answer_as_long_as_the_second(
    tokenizer: FileTokenizer, tmp_path: Path
) -> None:
    items = built(
        tokenizer,
        tmp_path,
        sharegpt(tmp_path, chat("물은 왜 파란가?", "빛이 흩어져서 그렇다."), chat("Hi", "Hello")),
    )
    item = items.item(0)
    assert item.body["messages"] == [{"role": "user", "content": "물은 왜 파란가?"}]
    assert item.output_tokens == item.body["max_tokens"] == tokenizer.count("빛이 흩어져서 그렇다.")
    assert item.input_tokens == tokenizer.count("물은 왜 파란가?") + OVERHEAD.user
    assert items.item(2).body == item.body


def test_what_is_left_out_is_counted_and_said(tokenizer: FileTokenizer, tmp_path: Path) -> None:
    part = sharegpt(
        tmp_path,
        chat("Hi", "Hello"),
        chat(" ", "x"),
        chat("x", ""),
        chat("word " * 300, "x"),
        {"conversations": []},
        7,
    )
    items = built(tokenizer, tmp_path, part, context=200)
    assert items.remarks == (
        "f: 1 prompts of chats.json; then they come again",
        "f: 5 of 6 items left out: 2 empty, 1 longer than the 200 tokens that the server takes, "
        "2 without a question and an answer",
    )


def test_items_outside_the_lengths_are_left_out(tokenizer: FileTokenizer, tmp_path: Path) -> None:
    part = sharegpt(tmp_path, chat("Hi", "Hello"), chat("word " * 30, "x")) | {
        "input": {"min": 20, "max": 90}
    }
    items = built(tokenizer, tmp_path, part)
    assert items.item(0).input_tokens > 20
    assert any("1 outside the lengths of input" in line for line in items.remarks)


def test_openai_lines_keep_their_keys_but_for_the_clients_own(
    tokenizer: FileTokenizer, tmp_path: Path
) -> None:
    body = {
        "model": "gpt",
        "stream": True,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 9,
        "top_p": 0.5,
    }
    batch = {
        "custom_id": "1",
        "method": "POST",
        "url": "/v1/completions",
        "body": {"prompt": "Once upon a time"},
    }
    items = built(tokenizer, tmp_path, jsonl(tmp_path, body, batch))
    first, second = items.item(0), items.item(1)
    assert first.body == {"messages": body["messages"], "max_tokens": 9, "top_p": 0.5, "temperature": 0.0}
    assert (first.route, first.output_tokens) == ("/v1/chat/completions", 9)
    assert second.route == "/v1/completions"
    assert second.body == {"prompt": "Once upon a time", "max_tokens": 128, "temperature": 0.0}
    assert second.input_tokens == tokenizer.count("Once upon a time") + OVERHEAD.prompt


def test_lines_that_are_no_requests_are_said(tokenizer: FileTokenizer, tmp_path: Path) -> None:
    part = jsonl(
        tmp_path,
        {"prompt": "Hi"},
        "{not json",
        {"input": "Hi"},
        {"prompt": "Hi", "n": 4},
        {"messages": [{"role": "user", "content": ""}]},
        '"empty"',
        {"messages": [{"content": "no role"}]},
    )
    assert built(tokenizer, tmp_path, part).remarks[1] == (
        "f: 6 of 7 items left out: 1 asking for several answers, 1 empty, 3 no request, 1 not JSON"
    )


def test_a_template_that_was_not_measured_leaves_the_length_open(
    tokenizer: FileTokenizer, tmp_path: Path
) -> None:
    said = [{"role": role, "content": "Hi"} for role in ("user", "assistant", "user")]
    assert built(tokenizer, tmp_path, jsonl(tmp_path, {"messages": said})).item(0).input_tokens == 0


def test_file_prompts_are_salted_at_their_beginning(tokenizer: FileTokenizer, tmp_path: Path) -> None:
    part = jsonl(
        tmp_path,
        {"messages": [{"role": "user", "content": "Tell me about Seoul"}]},
        {"prompt": "Hello there"},
    )
    items = built(tokenizer, tmp_path, part, salt=True)
    starts = {items.item(index).body["messages"][0]["content"][:11] for index in range(0, 40, 2)}
    assert len(starts) == 20
    for index, key in ((0, None), (1, "prompt")):
        item = items.item(index)
        text = item.body[key] if key else item.body["messages"][0]["content"]
        assert tokenizer.count(text) + (OVERHEAD.prompt if key else OVERHEAD.user) == item.input_tokens


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "not JSON"), ('{"a": 1}', "not a ShareGPT file"), ("[]", "nothing in it can be asked")],
)
def test_a_file_of_another_kind_is_refused(
    tokenizer: FileTokenizer, tmp_path: Path, content: str, said: str
) -> None:
    part = sharegpt(tmp_path)
    (tmp_path / "chats.json").write_text(content)
    with pytest.raises(UsageError, match=said):
        built(tokenizer, tmp_path, part)


def test_a_missing_file_is_refused(tokenizer: FileTokenizer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"chats\.json: No such file"):
        built(tokenizer, tmp_path, {"kind": "file", "path": "chats.json", "format": "sharegpt"})


GOLDEN = {"id": "sky", "messages": [{"role": "user", "content": "Sky?"}], "max_tokens": 4, "answer": "Blue."}


def golden(folder: Path, *lines: Any) -> dict[str, Any]:
    jsonl(folder, *lines)
    return {"path": "asked.jsonl", "every": 5}


def test_golden_prompts_are_mixed_in_and_never_salted(tokenizer: FileTokenizer, tmp_path: Path) -> None:
    second = {"id": "sum", "prompt": "1+1=", "max_tokens": 1, "answer": "2"}
    items = built(tokenizer, tmp_path, WRITTEN, golden=golden(tmp_path, GOLDEN, second), salt=True)
    groups = [items.item(index).group for index in range(20)]
    assert [index for index, group in enumerate(groups) if group == "golden"] == [4, 9, 14, 19]
    assert items.item(4).body == {"messages": GOLDEN["messages"], "max_tokens": 4, "temperature": 0.0}
    assert items.item(4).check.golden == "Blue."
    assert items.item(9).check.golden == "2"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x", "prompt 1: not a JSON object"),
        ({**GOLDEN, "answer": ""}, "prompt 1: answer"),
        ({**GOLDEN, "max_tokens": 0}, "prompt 1: max_tokens"),
        ({**GOLDEN, "prompt": "x"}, "either messages or prompt"),
        ({**GOLDEN, "anser": "x"}, "unknown key anser"),
    ],
)
def test_a_wrong_golden_line_is_named(tokenizer: FileTokenizer, tmp_path: Path, line: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        built(tokenizer, tmp_path, WRITTEN, golden=golden(tmp_path, line))
