"""Prompts of exact lengths, of sentences in the scenario's languages."""

from __future__ import annotations

from dataclasses import dataclass

from tri_serve.load.scenario.models import Written
from tri_serve.load.workload.items import Item
from tri_serve.load.workload.lengths import draw, longest
from tri_serve.load.workload.salt import Salts
from tri_serve.load.workload.setting import Pool, Setting, route_of


@dataclass(frozen=True, slots=True)
class _Prompt:
    text: str
    """Without its salt."""
    tokens: int
    output: int


class WrittenSource:
    """Items of one ``written`` part."""

    def __init__(self, part: Written, setting: Setting) -> None:
        self._part, self._setting = part, setting
        self._route = route_of(part.route)
        setting.check_fits(part.name, part.input, part.output)
        self._pool = Pool(setting.pool_size(longest(part.input)), self._prompt)

    def prepare(self) -> None:
        self._pool.prepare()

    def item(self, index: int, salts: Salts | None) -> Item:
        part, prompt = self._part, self._pool[index]
        salt = salts.of(f"{part.name}/{index}") if salts else ""
        return self._setting.ask(part, index, salt + prompt.text, tokens=prompt.tokens, output=prompt.output)

    def remarks(self) -> list[str]:
        if self._setting.salted:
            return []
        size = self._pool.size
        return self._setting.again(self._part.name, f"{size} different prompts, unsalted", size)

    def _prompt(self, number: int) -> _Prompt:
        part, setting = self._part, self._setting
        random = setting.random(part.name, number)
        sentences = setting.sentences(setting.language(part.languages, random))
        output = draw(part.output, random)
        added = setting.added(self._route)
        least = added + setting.tokenizer.count(setting.salt) + 1
        tokens = setting.room(part.name, part.input, random, output=output, least=least)
        return _Prompt(sentences.write(tokens - added, random, head=setting.salt), tokens, output)
