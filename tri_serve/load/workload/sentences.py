"""Text of exactly so many tokens, from sentences written for this project (texts/*.txt).

Byte-level BPE divides a text before it merges, at spaces and punctuation at least, so the count of sentences that
follow each other is nearly always the sum of their own, each with the space before it. A text is put together by
these sums, its end is a sentence that is cut between words where the count comes out right, and then the whole is
counted: what is handed out was counted as it stands, never assumed.
"""

from __future__ import annotations

from importlib import resources
from random import Random

from tri_serve.errors import UsageError
from tri_serve.load.scenario.models import Language
from tri_serve.load.workload.tokenizer import Tokenizer

_SEPARATOR = {"ko": " ", "en": " ", "ja": ""}
_FILLERS = (".", " a", "!", "?", " I", " 1", " 2", "~", " 이", " 그", "の", "、", ",", "-", " x", " o")
"""Candidates for a single token each, where no sentence can be cut to fit."""
_TRIES = 64
"""Sentences tried for an end."""
_TEXTS = 16
"""Texts tried."""
_MOST_FILLERS = 16


def read_sentences(language: Language) -> tuple[str, ...]:
    """The sentences of a language; lines that begin with # and empty ones are none."""
    path = resources.files("tri_serve.load.workload") / "texts" / f"{language}.txt"
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


class Sentences:
    """One language's sentences as one tokenizer counts them."""

    def __init__(self, language: Language, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._separator = _SEPARATOR[language]
        self._sentences = tuple(self._separator + sentence for sentence in read_sentences(language))
        self._counts: dict[str, int] = {}
        self._cuts: dict[str, dict[int, str]] = {}
        self._fillers: dict[str, tuple[str, ...]] = {}

    def write(self, tokens: int, random: Random, *, head: str = "", foot: str = "") -> str:
        """Text for which head + text + foot is exactly ``tokens`` long.

        ``head`` is what the text will follow: with another of the same count the sum stays. Without one the text
        begins with no space. Raises UsageError if there is no such text: for a tokenizer that merges across
        words, or less room than head and foot take.
        """
        count = self._tokenizer.count
        aim = tokens - (count(head) if head else 0) - (count(foot) if foot else 0)
        for _ in range(_TEXTS):
            if aim < 1:
                break
            text = self._about(aim, random, first=not head)
            error = tokens - count(head + text + foot)
            if error == 0:
                return text
            # Where parts meet, tokens merge or split: aim by as much higher or lower as this text fell short.
            aim += error
            repaired = self._repaired(text, tokens, head, foot)
            if repaired is not None:
                return repaired
        raise UsageError(
            f"no text of exactly {tokens} tokens could be written with {self._tokenizer.name}",
            hint="a few tokens more may do: the chat template, the salt and the question take some too",
        )

    def _repaired(self, text: str, tokens: int, head: str, foot: str) -> str | None:
        """The text cut at its end, and filled up there, until the whole is right; None if no piece fits."""
        count = self._tokenizer.count
        shortest, longest = 0, len(text)
        while shortest < longest:
            middle = (shortest + longest + 1) // 2
            if count(head + text[:middle] + foot) <= tokens:
                shortest = middle
            else:
                longest = middle - 1
        text = text[:shortest].rstrip()
        if not text:
            return None
        missing = tokens - count(head + text + foot)
        while 0 < missing <= _MOST_FILLERS:
            longer = (text + filler for filler in _FILLERS)
            found = next((one for one in longer if count(head + one + foot) == tokens - missing + 1), None)
            if found is None:
                return None
            text, missing = found, missing - 1
        return text if missing == 0 else None

    def _about(self, tokens: int, random: Random, *, first: bool) -> str:
        """Text whose parts sum up to ``tokens``."""
        parts: list[str] = []
        left, fresh = tokens, list[str]()
        while left > 0:
            if not fresh:
                fresh = random.sample(self._sentences, len(self._sentences))
            sentence = fresh.pop()
            if first:
                sentence = sentence.removeprefix(self._separator)
            count = self._count(sentence)
            if count > left:
                parts.append(self._end(left, random, first=first))
                break
            parts.append(sentence)
            left -= count
            first = False
        return "".join(parts)

    def _end(self, tokens: int, random: Random, *, first: bool) -> str:
        """The beginning of a sentence, cut between words, of exactly so many tokens; else fillers."""
        for _ in range(_TRIES):
            sentence = random.choice(self._sentences)
            if first:
                sentence = sentence.removeprefix(self._separator)
            found = self._cut(sentence).get(tokens)
            if found is not None:
                return found
        return self._filled(tokens, random, first=first)

    def _cut(self, sentence: str) -> dict[int, str]:
        """How a sentence can begin, by its number of tokens: up to each space, if it has any."""
        known = self._cuts.get(sentence)
        if known is None:
            spaced = " " in sentence.strip()
            # Without spaces at every third character: each is counted, which may be a request to the server.
            ends = range(2, len(sentence), 1 if spaced else 3)
            beginnings = [sentence[:end] for end in ends if not spaced or sentence[end] == " "]
            known = {self._tokenizer.count(text): text for text in beginnings}
            self._cuts[sentence] = known
        return known

    def _filled(self, tokens: int, random: Random, *, first: bool) -> str:
        """The longest beginning of some sentence that fits, then pieces of a token each."""
        cuts = self._cut(random.choice(self._sentences).removeprefix(self._separator if first else "\0"))
        fitting = max((count for count in cuts if count < tokens), default=0)
        text = cuts.get(fitting, "")
        for _ in range(tokens - fitting):
            text += random.choice(self._single() or (" a",))
        return text.removeprefix(" ") if first else text

    def _single(self) -> tuple[str, ...]:
        """Fillers that are one token each, also after each other."""
        if "single" not in self._fillers:
            count = self._tokenizer.count
            self._fillers["single"] = tuple(
                filler
                for filler in _FILLERS
                if count("a" + filler) == count("a") + 1 and count("a" + 3 * filler) == count("a") + 3
            )
        return self._fillers["single"]

    def _count(self, sentence: str) -> int:
        known = self._counts.get(sentence)
        if known is None:
            known = self._counts[sentence] = self._tokenizer.count(sentence)
        return known
