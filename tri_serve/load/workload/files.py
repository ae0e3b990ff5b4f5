"""Prompts of a file: ShareGPT's JSON, or JSON lines with OpenAI request bodies. What is left out is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tri_serve.errors import UsageError
from tri_serve.load.scenario.models import FromFile
from tri_serve.load.workload.file_formats import EMPTY, Asked, read_openai, read_sharegpt
from tri_serve.load.workload.items import Check, Item, Route
from tri_serve.load.workload.lengths import draw, longest, shortest
from tri_serve.load.workload.salt import Salts
from tri_serve.load.workload.setting import CHAT, COMPLETIONS, Setting, route_of

MOST_ITEMS = 10_000
"""Taken of a file at most: each is kept in memory and its tokens are counted before the load."""
_DEFAULT_OUTPUT = 128


@dataclass(frozen=True, slots=True)
class _Prompt:
    route: Route
    body: dict[str, Any]
    tokens: int
    """0: not known."""
    output: int


class FileSource:
    """Items of one ``file`` part.

    Raises UsageError for a file that is not there, is not of its format, or of which nothing is left.
    """

    def __init__(self, part: FromFile, setting: Setting, folder: Path) -> None:
        self._part, self._setting = part, setting
        self._path = folder / part.path
        self._left_out: Counter[str] = Counter()
        self._prompts = list(self._taken())
        if not self._prompts:
            raise UsageError(f"{self._path}: nothing in it can be asked ({self._reasons() or 'it is empty'})")

    def prepare(self) -> None:
        """Nothing: the file was read when the workload was built."""

    def item(self, index: int, salts: Salts | None) -> Item:
        part, prompt = self._part, self._prompts[index % len(self._prompts)]
        salt = f"{salts.of(f'{part.name}/{index}')} " if salts else ""
        return Item(
            id=f"{part.name}-{index}",
            group=part.name,
            route=prompt.route,
            body=_salted(prompt.body, salt),
            input_tokens=self._setting.counted(prompt.tokens),
            output_tokens=prompt.output,
            check=Check(exact_tokens=prompt.output if prompt.body.get("ignore_eos") is True else None),
        )

    def remarks(self) -> list[str]:
        name, taken = self._part.name, len(self._prompts)
        lines = self._setting.again(name, f"{taken} prompts of {self._path.name}", taken)
        if self._left_out:
            count = self._left_out.total()
            lines.append(f"{name}: {count} of {taken + count} items left out: {self._reasons()}")
        return lines

    def _reasons(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self._left_out.items()))

    def _taken(self) -> Iterator[_Prompt]:
        sharegpt = self._part.format == "sharegpt"
        route = route_of(self._part.route)
        found = list(read_sharegpt(self._path, route) if sharegpt else read_openai(self._path))
        order = list(range(len(found)))
        if self._part.shuffle:
            self._setting.random(self._part.name, "order").shuffle(order)
        taken = 0
        for place in order:
            if taken == MOST_ITEMS:
                return
            item = found[place]
            measured = item if isinstance(item, str) else self._measured(item, place)
            if isinstance(measured, str):
                self._left_out[measured] += 1
            else:
                taken += 1
                yield measured

    def _measured(self, item: Asked, place: int) -> _Prompt | str:
        """The item with its lengths, or why it is left out."""
        part, setting = self._part, self._setting
        output = self._output(item, place)
        if output < 1:
            return EMPTY
        tokens, exact = self._tokens(item)
        if part.input is not None and not shortest(part.input) <= tokens <= longest(part.input):
            return "outside the lengths of input"
        if setting.context is not None and tokens + output > setting.context:
            return f"longer than the {setting.context} tokens that the server takes"
        body = {"temperature": part.temperature, **item.body, "max_tokens": output}
        if part.ignore_eos:
            body["ignore_eos"] = True
        return _Prompt(item.route, body, tokens if exact else 0, output)

    def _output(self, item: Asked, place: int) -> int:
        if self._part.output is not None:
            return draw(self._part.output, self._setting.random(self._part.name, "output", place))
        if item.answer is not None:
            return self._setting.tokenizer.count(item.answer)
        return item.output if item.output is not None else _DEFAULT_OUTPUT

    def _tokens(self, item: Asked) -> tuple[int, bool]:
        """Tokens of the prompt with its salt, and whether the chat template's share in them was measured: it was
        for one user message, alone or after a system message. For others they are a little too few."""
        setting = self._setting
        body = _salted(item.body, f"{setting.salt} " if setting.salt else "")
        if item.route == COMPLETIONS:
            return setting.tokenizer.count(body["prompt"]) + setting.added(COMPLETIONS), True
        texts = [message.get("content") for message in body["messages"]]
        written = [text for text in texts if isinstance(text, str)]
        roles = [message["role"] for message in body["messages"]]
        measured = (
            roles in (["user"], ["system", "user"]) and len(written) == len(texts) and "tools" not in body
        )
        added = setting.added(CHAT, system=len(roles) > 1)
        return sum(map(setting.tokenizer.count, written)) + added, measured


def _salted(body: Mapping[str, Any], salt: str) -> dict[str, Any]:
    """The body with a salt before its first text."""
    if not salt:
        return dict(body)
    if "prompt" in body:
        return {**body, "prompt": salt + body["prompt"]}
    first, *others = body["messages"]
    if not isinstance(first.get("content"), str):
        return dict(body)
    return {**body, "messages": [{**first, "content": salt + first["content"]}, *others]}
