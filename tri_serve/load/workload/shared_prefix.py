"""Groups of requests that begin alike, to load the prefix cache on purpose."""

from __future__ import annotations

from dataclasses import dataclass

from tri_serve.load.scenario.models import SharedPrefix
from tri_serve.load.workload.items import Check, Item
from tri_serve.load.workload.lengths import draw, longest
from tri_serve.load.workload.salt import Salts
from tri_serve.load.workload.setting import COMPLETIONS, Pool, Setting, asked, route_of, sampling


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
        return Item(
            id=f"{part.name}-{index}",
            group=part.name,
            route=self._route,
            body=asked(self._route, prompt.text, salt + self._prefixes[prompt.group])
            | sampling(prompt.output, part.temperature, ignore_eos=part.ignore_eos),
            input_tokens=self._setting.counted(prompt.tokens),
            output_tokens=prompt.output,
            check=Check(exact_tokens=prompt.output if part.ignore_eos else None),
        )

    def remarks(self) -> list[str]:
        part, size = self._part, self._pool.size
        lines = self._setting.again(part.name, f"{size} different prompts in {part.groups} groups", size)
        if part.groups > size:
            lines.append(f"{part.name}: at most {size} of the {part.groups} groups are asked")
        return lines

    def _prefix(self, group: int) -> str:
        part, setting = self._part, self._setting
        random = setting.random(part.name, "prefix", group)
        sentences = setting.sentences(setting.language(part.languages, random))
        least = setting.tokenizer.count(setting.salt) + 1
        return sentences.write(max(draw(part.prefix, random), least), random, head=setting.salt)

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
