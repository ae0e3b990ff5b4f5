"""Prompts whose answers are known to the letter, mixed in: a server that is fast and wrong is found out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tri_serve.errors import UsageError
from tri_serve.load.scenario.models import Golden
from tri_serve.load.workload.file_formats import json_lines
from tri_serve.load.workload.items import Check, Item, Route
from tri_serve.load.workload.setting import CHAT, COMPLETIONS

GROUP = "golden"
_MOST_PROMPTS = 10_000


class GoldenSource:
    """The golden prompts in turn. Never salted: a salt changes the answer.

    Raises UsageError, with the line, for a file that is not what it should be.
    """

    def __init__(self, golden: Golden, folder: Path) -> None:
        self.every = golden.every
        self._items = tuple(_read(folder / golden.path))

    def is_due(self, index: int) -> bool:
        """Whether the request of this number is a golden one: the last of each ``every``."""
        return index % self.every == self.every - 1

    def item(self, index: int) -> Item:
        """What the request of this number asks."""
        return self._items[index // self.every % len(self._items)]


def _read(path: Path) -> Iterator[Item]:
    count = 0
    for line, value in enumerate(json_lines(path), start=1):
        if count == _MOST_PROMPTS:
            raise UsageError(f"{path}: more than {_MOST_PROMPTS} golden prompts")
        count += 1
        yield _item(value, f"{path}: prompt {line}")
    if not count:
        raise UsageError(f"{path}: no golden prompt in it")


def _item(value: Any, place: str) -> Item:
    keys = ("id", "messages or prompt", "max_tokens", "answer")
    if not isinstance(value, Mapping):
        raise UsageError(f"{place}: not a JSON object with {', '.join(keys)}")
    name, output, answer = value.get("id"), value.get("max_tokens"), value.get("answer")
    if not isinstance(name, str) or not name:
        raise UsageError(f"{place}: id: takes text")
    if isinstance(output, bool) or not isinstance(output, int) or output < 1:
        raise UsageError(f"{place}: max_tokens: takes a whole number from 1")
    if not isinstance(answer, str) or not answer:
        raise UsageError(f"{place}: answer: takes the text that the model must give")
    if ("messages" in value) == ("prompt" in value):
        raise UsageError(f"{place}: takes either messages or prompt")
    if unknown := set(value) - {"id", "messages", "prompt", "max_tokens", "answer"}:
        raise UsageError(f"{place}: unknown key {min(unknown)}; takes {', '.join(keys)}")
    route: Route = CHAT if "messages" in value else COMPLETIONS
    prompt = {key: value[key] for key in ("messages", "prompt") if key in value}
    return Item(
        id=f"{GROUP}-{name}",
        group=GROUP,
        route=route,
        body=prompt | {"max_tokens": output, "temperature": 0.0},
        input_tokens=0,
        output_tokens=output,
        check=Check(golden=answer),
    )
