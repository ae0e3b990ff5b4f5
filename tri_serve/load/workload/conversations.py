"""Chats of several turns: each turn sends all that was said before, the server's own answers included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tri_serve.load.scenario.models import Conversations
from tri_serve.load.workload.items import Check, Item
from tri_serve.load.workload.lengths import draw, longest
from tri_serve.load.workload.salt import Salts
from tri_serve.load.workload.setting import CHAT, Pool, Setting, sampling


@dataclass(frozen=True, slots=True)
class _Turn:
    text: str
    tokens: int
    """Of the text, the first one's salt included."""
    output: int
    think: float


@dataclass(frozen=True)
class Conversation:
    """One of them in a run. Turns after the first do not know their length: answers are the server's."""

    id: str
    part: Conversations
    setting: Setting
    salt: str
    said: tuple[_Turn, ...]

    @property
    def turns(self) -> int:
        """How many there are."""
        return len(self.said)

    def turn(self, number: int, answers: Sequence[str]) -> Item:
        """The item of one turn, after these answers to the turns before it."""
        messages: list[dict[str, str]] = []
        for place in range(number):
            messages.append({"role": "user", "content": self._text(place)})
            messages.append({"role": "assistant", "content": answers[place]})
        messages.append({"role": "user", "content": self._text(number)})
        turn = self.said[number]
        tokens = turn.tokens + self.setting.added(CHAT)
        return Item(
            id=f"{self.id}.{number}",
            group=self.part.name,
            route=CHAT,
            body={"messages": messages}
            | sampling(turn.output, self.part.temperature, ignore_eos=self.part.ignore_eos),
            input_tokens=self.setting.counted(tokens) if number == 0 else 0,
            output_tokens=turn.output,
            check=Check(exact_tokens=turn.output if self.part.ignore_eos else None),
            session=self.id,
            turn=number,
            think_seconds=turn.think,
        )

    def _text(self, number: int) -> str:
        return self.salt + self.said[number].text if number == 0 else self.said[number].text


class ConversationsSource:
    """Items of one ``conversations`` part: each begins a conversation."""

    def __init__(self, part: Conversations, setting: Setting) -> None:
        self._part, self._setting = part, setting
        most = longest(part.input) + (longest(part.turns) - 1) * longest(part.follow_up)
        self._pool = Pool(setting.pool_size(most), self._said)

    def prepare(self) -> None:
        self._pool.prepare()

    def item(self, index: int, salts: Salts | None) -> Item:
        return self.session(index, salts).turn(0, ())

    def session(self, index: int, salts: Salts | None) -> Conversation:
        """The conversation that the request of this number begins."""
        name = f"{self._part.name}-{index}"
        salt = salts.of(f"{self._part.name}/{index}") if salts else ""
        return Conversation(name, self._part, self._setting, salt, self._pool[index])

    def remarks(self) -> list[str]:
        if self._setting.salted:
            return []
        size = self._pool.size
        return self._setting.again(self._part.name, f"{size} different conversations, unsalted", size)

    def _said(self, number: int) -> tuple[_Turn, ...]:
        part, setting = self._part, self._setting
        random = setting.random(part.name, number)
        sentences = setting.sentences(setting.language(part.languages, random))
        least = setting.tokenizer.count(setting.salt) + 1
        turns: list[_Turn] = []
        length = 0
        for place in range(draw(part.turns, random)):
            drawn = draw(part.follow_up if place else part.input, random)
            tokens = drawn if place else max(drawn, least)
            output = draw(part.output, random)
            think = random.expovariate(1 / part.think) if place and part.think else 0.0
            # A turn adds two messages to the template; the answers are as long as asked, or shorter.
            length += tokens + output + 2 * setting.added(CHAT)
            if turns and setting.context is not None and length > setting.context:
                setting.clipped[part.name] += 1
                break
            text = sentences.write(tokens, random, head="" if place else setting.salt)
            turns.append(_Turn(text, tokens, output, think))
        return tuple(turns)
