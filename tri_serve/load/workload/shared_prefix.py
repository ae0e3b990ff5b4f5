"""Groups of requests that begin alike, to load the prefix cache on purpose."""

from __future__ import annotations

from dataclasses import dataclass

from tri_serve.load.scenario.models import SharedPrefix
from tri_serve.load.workload.items import Item
from tri_serve.load.workload.lengths import draw, longest
from tri_serve.load.workload.salt import Salts
from tri_serve.load.workload.setting import COMPLETIONS, Pool, Setting, route_of


@dataclass(frozen=True, slots=True)
class _Prompt:
    group: int
    text: str
    """What follows the prefix."""
    tokens: int
    """Of the whole."""
    output: int


class SharedPrefixSource:
    """Items of one ``shared-prefix`` part: the prefix is a system message in chats, else the prompt's beginning.

    The salt is the group's: a run finds its own prefixes in the cache, and not those of the run before.
    """

    def __init__(self, part: SharedPrefix, setting: Setting) -> None:
        self._part, self._setting = part, setting
        self._route = route_of(part.route)
        self._prefixes = Pool(part.groups, self._prefix)
        self._pool = Pool(setting.pool_size(longest(part.prefix) + longest(part.input)), self._prompt)

    def prepare(self) -> None:
        self._pool.prepare()

    def item(self, index: int, salts: Salts | None) -> Item:
        part, prompt = self._part, self._pool[index]
        salt = salts.of(f"{part.name}/group {prompt.group}") if salts else ""
        return self._setting.ask(
            part,
            index,
            prompt.text,
            tokens=prompt.tokens,
            output=prompt.output,
            system=salt + self._prefixes[prompt.group],
        )

    def remarks(self) -> list[str]:
        part, size = self._part, self._pool.size
        lines = self._setting.again(part.name, f"{size} different prompts in {part.groups} groups", size)
        if part.groups > size:
            lines.append(f"{part.name}: at most {size} of the {part.groups} groups are asked")
        return lines

    def _prefix(self, group: int) -> str:
        return self._setting.passage(self._part, "prefix", group, self._part.prefix)

    def _prompt(self, number: int) -> _Prompt:
        part, setting = self._part, self._setting
        random = setting.random(part.name, number)
        group = random.randrange(part.groups)
        sentences = setting.sentences(setting.language(part.languages, random))
        output = draw(part.output, random)
        prefix = setting.salt + self._prefixes[group]
        before = setting.tokenizer.count(prefix)
        added = setting.added(self._route, system=True)
        length = setting.room(part.name, part.input, random, output=output + before + added, least=1)
        if self._route == COMPLETIONS:
            text = sentences.write(before + length, random, head=prefix)
        else:
            text = sentences.write(length, random)
        return _Prompt(group, text, added + before + length, output)
