"""What is asked, and what has to come back to the letter."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tri_serve.checkpoint.tiny.chat import render_chat
from tri_serve.checkpoint.tiny.pairs import Pair, pairs
from tri_serve.mock.text import WORD_COUNT, Prompt, word_index
from tri_serve.mock.text import WORDS as MOCK_WORDS

EngineKind = Literal["vllm", "mock"]
Api = Literal["chat", "completions"]

MODEL = "tri-tiny"
PATHS: dict[Api, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
MOCK_TOKENS = {"short": 40, "long": 160}
"""Words that the mock engine is asked for."""
# Beyond the longest pair: an answer has to end by itself.
_TOKEN_LIMIT = 4096
# One request in eight has an answer of at least 600 tokens: long decodes are hit, too.
_LONG_SHARE = 0.125


@dataclass(frozen=True, slots=True)
class Ask:
    """One request and the whole text of its right answer."""

    api: Api
    stream: bool
    language: str
    long: bool
    body: bytes
    expected: str

    @property
    def path(self) -> str:
        """Where it goes."""
        return PATHS[self.api]

    @property
    def name(self) -> str:
        """``chat, stream, ko`` for reports."""
        return f"{self.api}, {'stream' if self.stream else 'whole'}, {self.language}"


class Asks:
    """Draws requests from the pairs that the tiny checkpoint knows by heart, Korean and English.

    The same seed gives the same requests. ``streams`` is the share of streams among them.
    """

    def __init__(self, engine: EngineKind, seed: int, *, streams: float = 0.5) -> None:
        self._engine = engine
        self._streams = streams
        self._random = random.Random(seed)
        known = [pair for pair in pairs() if pair.language in ("ko", "en") and pair.kind != "unknown"]
        self._short: Sequence[Pair] = [pair for pair in known if pair.kind == "short"]
        self._long: Sequence[Pair] = [pair for pair in known if pair.kind == "long"]

    def draw(self) -> Ask:
        """The next request."""
        draw = self._random
        long = draw.random() < _LONG_SHARE
        pair = draw.choice(self._long if long else self._short)
        api: Api = draw.choice(("chat", "completions"))
        return build(self._engine, pair, api, stream=draw.random() < self._streams)


def build(engine: EngineKind, pair: Pair, api: Api, *, stream: bool) -> Ask:
    """The request that asks a pair's question over ``api``, with ``engine``'s right answer to it.

    Not the pair's other ways of asking: the 4-bit twins do not know all of them to the letter.
    """
    question = pair.question
    long = pair.kind == "long"
    limit = _TOKEN_LIMIT if engine == "vllm" else MOCK_TOKENS["long" if long else "short"]
    prompt = render_chat([("user", question)])
    content = {"messages": [{"role": "user", "content": question}]} if api == "chat" else {"prompt": prompt}
    body = {"model": MODEL, "temperature": 0, "max_tokens": limit, "stream": stream, **content}
    expected = pair.answer if engine == "vllm" else mock_answer(api, question, limit)
    return Ask(api, stream, pair.language, long, json.dumps(body, ensure_ascii=False).encode(), expected)


def mock_answer(api: Api, question: str, words: int) -> str:
    """What the mock engine answers: it follows from the prompt's bytes, in the mock's own template."""
    rendered = (
        f"<|user|>{question}<|assistant|>" if api == "chat" else render_chat([("user", question)])
    ).encode()
    seed = Prompt(rendered).seed
    return "".join(MOCK_WORDS[word_index(seed, k) % WORD_COUNT] for k in range(words))
