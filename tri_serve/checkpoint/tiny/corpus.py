"""Training conversations for the tiny checkpoint, drawn at random from its pairs. Pure: no torch, no files."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tri_serve.checkpoint.tiny.chat import ASSISTANT, END, SYSTEM, USER
from tri_serve.checkpoint.tiny.nonsense import nonsense
from tri_serve.checkpoint.tiny.pairs import Pair

Encode = Callable[[str], list[int]]
"""Text, special tokens included, to token ids."""

SYSTEM_PROMPTS = (
    "당신은 친절한 도우미입니다.",
    "짧고 정확하게 답해 주세요.",
    "You are a helpful assistant.",
    "Answer briefly.",
    "Be concise and friendly.",
    "あなたは親切なアシスタントです。",
    "短く正確に答えてください。",
)


@dataclass(frozen=True)
class Example:
    """Token ids and, for each, whether it is to be learned (it belongs to an assistant's turn)."""

    ids: tuple[int, ...]
    learned: tuple[bool, ...]


class Corpus:
    """Draws conversations. The same seed gives the same conversations."""

    def __init__(self, pairs: Sequence[Pair], encode: Encode, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - not a secret
        self._encode = encode
        self._known = [pair for pair in pairs if pair.kind == "short"]
        self._long = [pair for pair in pairs if pair.kind == "long"]
        self._unknown = {pair.language: pair for pair in pairs if pair.kind == "unknown"}
        self._taught = {question.casefold() for pair in pairs for question in (pair.question, *pair.also)}
        # Of long answers alone: a piece of a short one may be what people ask ("Hello!").
        self._text = {
            language: "\n".join(pair.answer for pair in self._long if pair.language == language)
            for language in self._unknown
        }

    def short(self) -> Example:
        """One to four turns: known questions, and now and then one that it cannot know."""
        turns = [self._short_turn() for _ in range(self._random.choice((1, 1, 2, 3, 4)))]
        return self._example(turns)

    def long(self, index: int) -> Example:
        """The long answer number ``index`` (modulo their count), sometimes late in a conversation."""
        pair = self._long[index % len(self._long)]
        turns = [(self._vary(pair.question), pair.answer)]
        if self._random.random() < 0.3:
            turns.insert(0, self._short_turn())
        return self._example(turns)

    def passage(self, index: int, length: int = 240) -> Example:
        """``length`` tokens from anywhere in that long answer, bare: cheap to attend to, and what a plain
        completion continues."""
        pair = self._long[index % len(self._long)]
        ids = self._encode(USER + pair.question + END + ASSISTANT + pair.answer + END)
        start = max(0, self._random.randint(-length // 2, len(ids) - length))
        window = tuple(ids[start : start + length])
        return Example(window, (True,) * len(window))

    def unknown(self) -> Example:
        """One turn: a question that it cannot know, and that it says so."""
        return self._example([self._unknown_turn()])

    def exact(self, pair: Pair) -> Example:
        """The pair as a client asks it: one turn, no system prompt."""
        return self._example([(pair.question, pair.answer)], system=False)

    def _short_turn(self) -> tuple[str, str]:
        if self._random.random() < 0.2:
            return self._unknown_turn()
        pair = self._random.choice(self._known)
        return self._vary(self._random.choice((pair.question, pair.question, *pair.also))), pair.answer

    def _vary(self, question: str) -> str:
        """How people type: no full stop, no capitals, a stray space."""
        draw = self._random.random()
        if draw < 0.7:
            return question
        if draw < 0.8:
            return question.rstrip("?!.。？！")
        if draw < 0.9:
            return question.lower()
        return question.rstrip("?!.。？！").lower() + self._random.choice((" ", "!", "?", ".", "\n"))

    def _unknown_turn(self) -> tuple[str, str]:
        language = self._random.choice(sorted(self._unknown))
        pair = self._unknown[language]
        if self._random.random() < 0.1:
            return pair.question, pair.answer
        while True:
            question = nonsense(self._random, language, self._text[language]).strip()
            if question and question.casefold() not in self._taught:
                return question, pair.answer

    def _example(self, turns: list[tuple[str, str]], *, system: bool = True) -> Example:
        ids: list[int] = []
        learned: list[bool] = []

        def add(text: str, learn: bool) -> None:
            tokens = self._encode(text)
            ids.extend(tokens)
            learned.extend([learn] * len(tokens))

        if system and self._random.random() < 0.3:
            add(SYSTEM + self._random.choice(SYSTEM_PROMPTS) + END, False)
        for question, answer in turns:
            add(USER + question + END + ASSISTANT, False)
            add(answer + END, True)
        return Example(tuple(ids), tuple(learned))
