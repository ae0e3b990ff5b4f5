"""The content of an answer, whatever the dialect: its words, ids and counts, and how a stream is put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .ask import Ask
from .text import END_ID, FIRST_WORD_ID, WORD_COUNT, WORDS, WORDS_JSON

# Of the form that vLLM gives; clients may show it, nobody may rely on it.
FINGERPRINT = "vllm-0.32.0-mock"


@dataclass(frozen=True, slots=True)
class Rendering:
    """A streamed answer: events sent with the first token, one event a token, events after the last."""

    opening: tuple[bytes, ...]
    token: Callable[[int], bytes]
    """The event of token k of this answer, from 0."""
    closing: tuple[bytes, ...]


def answer_text(ask: Ask) -> str:
    """The whole text of an answer."""
    start = ask.prompt.seed + ask.prompt.offset
    return "".join(WORDS[(start + k) % WORD_COUNT] for k in range(ask.length - ends(ask)))


def answer_ids(ask: Ask) -> list[int]:
    """All ids of an answer, the end of sequence included where there is one."""
    start = ask.prompt.seed + ask.prompt.offset
    ids = [FIRST_WORD_ID + (start + k) % WORD_COUNT for k in range(ask.length - ends(ask))]
    return [*ids, END_ID] if ends(ask) else ids


def ends(ask: Ask) -> bool:
    """Whether the last token is the end of the sequence, which has no text."""
    return ask.finish == "stop"


def token_events(
    ask: Ask, before: bytes, after: bytes, last_before: bytes, last_after: bytes
) -> Callable[[int], bytes]:
    """Token k's event: prepared bytes around its word, and others around the last one's."""
    start = ask.prompt.seed + ask.prompt.offset
    last = ask.length - 1
    last_word = b"" if ends(ask) else WORDS_JSON[(start + last) % WORD_COUNT]

    def token(k: int) -> bytes:
        if k == last:
            return last_before + last_word + last_after
        return before + WORDS_JSON[(start + k) % WORD_COUNT] + after

    return token


def token_events_with_ids(
    ask: Ask, before: bytes, after: bytes, last_after: bytes, close: bytes, last_close: bytes
) -> Callable[[int], bytes]:
    """As token_events, with the token's id in a list between ``after`` and ``close``."""
    start = ask.prompt.seed + ask.prompt.offset
    last = ask.length - 1
    stops = ends(ask)

    def token(k: int) -> bytes:
        index = (start + k) % WORD_COUNT
        if k == last:
            number = END_ID if stops else FIRST_WORD_ID + index
            word = b"" if stops else WORDS_JSON[index]
            return b"%b%b%b[%d]%b" % (before, word, last_after, number, last_close)
        return b"%b%b%b[%d]%b" % (before, WORDS_JSON[index], after, FIRST_WORD_ID + index, close)

    return token
