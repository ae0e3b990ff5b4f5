"""What the parts of a workload stand on: seed, tokenizer, salts, the sentences, and pools of finished prompts.

Prompts are written before the load starts, at most ``POOL_PROMPTS`` a part: writing one costs the time of counting
its tokens, which the sending process does not have. Salted, each request differs from all others all the same.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from tri_serve.errors import UsageError
from tri_serve.load.scenario.models import Documents, Language, Languages, Lengths, SharedPrefix, Written
from tri_serve.load.workload.items import Check, Item, Route, Session
from tri_serve.load.workload.lengths import draw, longest, shortest
from tri_serve.load.workload.salt import Salts
from tri_serve.load.workload.sentences import Sentences
from tri_serve.load.workload.tokenizer import Overhead, Tokenizer

HASHED_ITEMS = 256
"""A workload's hash is of its first items. Pools are no smaller, so that a run's length does not change it."""
POOL_PROMPTS = 1_024
POOL_TOKENS = 2_000_000
"""A few seconds of counting, and some ten megabytes of text."""

CHAT: Route = "/v1/chat/completions"
COMPLETIONS: Route = "/v1/completions"

T = TypeVar("T")
Passages = SharedPrefix | Documents
"""Parts whose prompts have longer texts in common."""


@dataclass(frozen=True)
class Setting:
    """Of one workload in one run."""

    seed: int
    tokenizer: Tokenizer
    overhead: Overhead | None
    """None: the server did not say; prompts are then exact but for it, and ``Item.input_tokens`` is 0."""
    context: int | None
    """Tokens that a prompt and its answer may have together; None: not known."""
    salted: bool
    requests: float | None = None
    """Expected in the run; None: not known."""
    clipped: Counter[str] = field(default_factory=Counter)
    """Prompts by part that were made shorter or longer than drawn, to fit."""
    _sentences: dict[Language, Sentences] = field(default_factory=dict)

    @cached_property
    def salts(self) -> Salts:
        """Those of a run without a name; of another they are as long."""
        return Salts(self.tokenizer, self.seed)

    @cached_property
    def salt(self) -> str:
        """One salt, to write what stands behind it; empty where there is none."""
        return self.salts.example if self.salted else ""

    def random(self, *purpose: object) -> Random:
        """Numbers of their own for each purpose, the same in every process."""
        return Random("/".join(map(str, (self.seed, *purpose))))  # noqa: S311 (to be repeated, not secret)

    def fraction(self, purpose: str, index: int) -> float:
        """A number from 0 to 1 for each index: cheap, for the sending process."""
        digest = hashlib.blake2b(f"{self.seed}/{purpose}/{index}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64

    def sentences(self, language: Language) -> Sentences:
        """The language's sentences as this tokenizer counts them."""
        if language not in self._sentences:
            self._sentences[language] = Sentences(language, self.tokenizer)
        return self._sentences[language]

    def language(self, languages: Languages, random: Random) -> Language:
        """One of them, by weight."""
        return random.choices(list(languages), weights=list(languages.values()))[0]

    def added(self, route: Route, *, system: bool = False) -> int:
        """Tokens that the server adds to a prompt; 0 where it is not known."""
        if self.overhead is None:
            return 0
        if route == COMPLETIONS:
            return self.overhead.prompt
        return self.overhead.system_user if system else self.overhead.user

    def counted(self, tokens: int) -> int:
        """``tokens`` if the server counts a prompt as this does, else 0 for "not known"."""
        known = self.tokenizer.exact and self.overhead is not None and (not self.salted or self.salts.uniform)
        return tokens if known else 0

    def room(self, part: str, lengths: Lengths, random: Random, *, output: int, least: int) -> int:
        """A prompt's length: as drawn, but at least ``least``, and with its answer within the context."""
        drawn = draw(lengths, random)
        most = self.context - output if self.context is not None else drawn
        taken = max(min(drawn, most), least)
        if taken != drawn:
            self.clipped[part] += 1
        return taken

    def passage(self, part: Passages, kind: str, number: int, lengths: Lengths) -> str:
        """A salted text of its own, which several prompts of ``part`` have in common."""
        random = self.random(part.name, kind, number)
        sentences = self.sentences(self.language(part.languages, random))
        least = self.tokenizer.count(self.salt) + 1
        return sentences.write(max(draw(lengths, random), least), random, head=self.salt)

    def ask(
        self,
        part: Written | Passages,
        index: int,
        text: str,
        *,
        tokens: int,
        output: int,
        system: str | None = None,
    ) -> Item:
        """The item that asks ``text``, a prompt of ``tokens``, for ``output`` tokens."""
        route = route_of(part.route)
        return Item(
            id=f"{part.name}-{index}",
            group=part.name,
            route=route,
            body=asked(route, text, system) | sampling(output, part.temperature, ignore_eos=part.ignore_eos),
            input_tokens=self.counted(tokens),
            output_tokens=output,
            check=Check(exact_tokens=output if part.ignore_eos else None),
        )

    def pool_size(self, most_tokens: int) -> int:
        """Prompts of at most so many tokens that are written beforehand: no more than the run may ask."""
        wanted = POOL_PROMPTS if self.requests is None else math.ceil(1.1 * self.requests)
        return max(16, min(POOL_PROMPTS, max(HASHED_ITEMS, wanted), POOL_TOKENS // most_tokens))

    def again(self, part: str, what: str, size: int) -> list[str]:
        """A remark if a run may ask the same thing twice."""
        if self.requests is not None and self.requests <= size:
            return []
        return [f"{part}: {what}; then they come again"]

    def check_fits(self, part: str, tokens: Lengths, output: Lengths) -> None:
        """Raises UsageError where not even the shortest prompt and answer fit into the context."""
        if self.context is not None and shortest(tokens) + longest(output) > self.context:
            raise UsageError(
                f"part {part}: prompts from {shortest(tokens)} tokens with answers up to {longest(output)}"
                f" do not fit into the {self.context} that the server takes",
                hint="make workload.parts input or output shorter",
            )


class Source(Protocol):
    """One part of a workload, ready to give items."""

    def prepare(self) -> None:
        """Write all that items are made of, ahead of the load."""

    def item(self, index: int, salts: Salts | None) -> Item:
        """What the request of this number in the run asks; without ``salts`` a cache may know it."""

    def remarks(self) -> list[str]:
        """What a reader of the result must know: what was left out, what repeats."""


@runtime_checkable
class Conversing(Source, Protocol):
    """A part whose items begin conversations."""

    def session(self, index: int, salts: Salts | None) -> Session:
        """The conversation that the request of this number begins."""


class Pool(Generic[T]):
    """Things made from their number, kept once made."""

    def __init__(self, size: int, make: Callable[[int], T]) -> None:
        self.size = size
        self._make = make
        self._made: dict[int, T] = {}

    def __getitem__(self, number: int) -> T:
        number %= self.size
        if number not in self._made:
            self._made[number] = self._make(number)
        return self._made[number]

    def prepare(self) -> None:
        """Make all of it."""
        for number in range(self.size):
            self[number]


def route_of(name: Literal["chat", "completions"]) -> Route:
    """The path of a part's ``route``."""
    return CHAT if name == "chat" else COMPLETIONS


def asked(route: Route, text: str, system: str | None = None) -> dict[str, Any]:
    """The keys of a body that hold its prompt. On completions, what would be the system message goes before it."""
    if route == COMPLETIONS:
        return {"prompt": (system or "") + text}
    user = {"role": "user", "content": text}
    return {"messages": [user] if system is None else [{"role": "system", "content": system}, user]}


def sampling(output: int, temperature: float, *, ignore_eos: bool) -> dict[str, Any]:
    """The keys of a body that say how to answer. ``ignore_eos`` is vLLM's and SGLang's: it stands only if set."""
    keys: dict[str, Any] = {"max_tokens": output, "temperature": temperature}
    return keys | {"ignore_eos": True} if ignore_eos else keys
