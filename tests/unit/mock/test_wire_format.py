"""The mock writes the fields that vLLM writes, in vLLM's order: held against recorded exchanges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tri_serve.mock.ask import Ask, read_ask
from tri_serve.mock.faults import Fault
from tri_serve.mock.heads import Heads
from tri_serve.mock.rendering import render_stream, render_whole
from tri_serve.mock.settings import MockSettings

RECORDED: dict[str, str] = json.loads((Path(__file__).parent / "vllm-0.32.0.json").read_text())["exchanges"]


def ask(dialect: str, **more: Any) -> Ask:
    value = {
        "messages": [{"role": "user", "content": "hi"}],
        "prompt": "hi",
        "input": "hi",
        "max_tokens": 3,
        **more,
    }
    return read_ask(dialect, value, "", Fault(), MockSettings(), number=1, created=1)


def shape(value: Any) -> Any:
    """Keys in order, and whether each value is null; lists of scalars by the kind of their first."""
    if isinstance(value, dict):
        return [(key, shape(inner)) for key, inner in value.items()]
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return None if value is None else type(value).__name__


def events(text: str) -> list[tuple[str, Any]]:
    """Name and shape of each event of a stream; runs of events alike are one, for lengths differ."""
    found: list[tuple[str, Any]] = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.strip().splitlines() if ": " in line)
        if "data" in lines:
            data = lines["data"]
            event = (lines.get("event", ""), data if data == "[DONE]" else shape(json.loads(data)))
            if not found or found[-1] != event:
                found.append(event)
    return found


@pytest.mark.parametrize(
    ("recorded", "dialect", "more"),
    [
        ("chat stream", "chat", {}),
        (
            "chat stream usage ids",
            "chat",
            {"return_token_ids": True, "stream_options": {"include_usage": True}},
        ),
        ("compl stream plain", "completions", {}),
        (
            "compl stream",
            "completions",
            {"max_tokens": 2, "return_token_ids": True, "stream_options": {"include_usage": True}},
        ),
        ("messages stream", "messages", {}),
        ("responses stream", "responses", {}),
    ],
)
def test_a_stream_has_the_events_of_the_real_engine(
    recorded: str, dialect: str, more: dict[str, Any]
) -> None:
    asked = ask(dialect, stream=True, **more)
    rendering = render_stream(asked)
    mine = b"".join(
        (*rendering.opening, *map(rendering.token, range(asked.length)), *rendering.closing)
    ).decode()
    assert events(mine) == events(RECORDED[recorded].replace("\r\n", "\n").rpartition("chunked\n\n")[2])


@pytest.mark.parametrize(
    ("recorded", "dialect", "more"),
    [
        ("chat", "chat", {}),
        ("compl", "completions", {"return_token_ids": True}),
        ("messages", "messages", {}),
        ("responses", "responses", {}),
    ],
)
def test_a_whole_answer_has_the_fields_of_the_real_engine(
    recorded: str, dialect: str, more: dict[str, Any]
) -> None:
    real = json.loads(RECORDED[recorded][RECORDED[recorded].index("{") :])
    assert shape(json.loads(render_whole(ask(dialect, **more)))) == shape(real)


@pytest.mark.parametrize(("recorded", "streamed"), [("chat", False), ("chat stream", True)])
def test_a_head_has_the_lines_of_the_real_engine(recorded: str, streamed: bool) -> None:
    heads = Heads()
    if streamed:
        mine = heads.chunked(b"text/event-stream; charset=utf-8", keep_alive=True)
    else:
        mine = heads.sized(200, b"application/json", 688, keep_alive=True)
    real = RECORDED[recorded].replace("\r\n", "\n").split("\n\n")[0].splitlines()
    lines = mine.decode().strip().splitlines()
    assert [line.partition(":")[0] for line in lines] == [line.partition(":")[0] for line in real]
    undated = [line for line in lines if not line.startswith("date")]
    assert undated == [line for line in real if not line.startswith("date")]
