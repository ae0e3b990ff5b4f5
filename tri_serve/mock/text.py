"""Words, ids and prompts: a tokenizer without a model, whose answers depend on the prompt alone.

Ids: 1 begins a sequence, 2 ends it, 3–258 are bytes, from 1000 on are words. An answer's token number k
follows from the prompt's bytes and k. Words at the end of a prompt of ids count as the part of the answer
that exists already, so *prompt ids + the ids generated so far* continues an answer exactly.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

BEGIN_ID = 1
END_ID = 2
FIRST_BYTE_ID = 3
FIRST_WORD_ID = 1000

_KOREAN = (
    "안녕하세요 저는 오늘 서울 날씨 바다 하늘 구름 사람 마음 시간 아침 저녁 노래 학교 친구 가족 "
    "여행 기차 버스 음식 김치 비빔밥 커피 나무 꽃 봄 여름 가을 겨울 언어 모델 서버 토큰 질문 대답 "
    "생각 이야기 역사 과학 수학 음악 그림 영화 책 글 문장 단어 한국 도시"
)
_ENGLISH = (
    "hello today the weather sea sky cloud people heart time morning evening song school friend family "
    "travel train bus food coffee tree flower spring summer autumn winter language model server token "
    "question answer thought story history science number music picture film book letter sentence word "
    "country city light road"
)
# A word carries the space after it, so that joined words read as text. The count is odd: Korean and English
# alternate, and an answer meets every word before it meets one again.
WORDS: tuple[str, ...] = tuple(
    f"{word} " for pair in zip(_KOREAN.split(), _ENGLISH.split(), strict=False) for word in pair
)[:97]
WORD_COUNT = len(WORDS)
WORDS_JSON: tuple[bytes, ...] = tuple(json.dumps(word, ensure_ascii=False).encode()[1:-1] for word in WORDS)


def word_index(seed: int, position: int) -> int:
    """Index of the answer's word at ``position`` for a prompt of that seed."""
    return (seed + position) % WORD_COUNT


@dataclass(frozen=True)
class Prompt:
    """A prompt as bytes, and how many words of its answer it already holds (``offset``)."""

    content: bytes
    offset: int = 0

    @cached_property
    def seed(self) -> int:
        """What the answer follows from."""
        return zlib.crc32(self.content)

    @property
    def count(self) -> int:
        """Tokens of the prompt."""
        return 1 + len(self.content) + self.offset

    def ids(self) -> list[int]:
        """Token ids of the prompt."""
        head = [BEGIN_ID, *(FIRST_BYTE_ID + byte for byte in self.content)]
        return head + [FIRST_WORD_ID + word_index(self.seed, k) for k in range(self.offset)]


def prompt_of_ids(ids: Sequence[int]) -> Prompt:
    """A prompt given as token ids; raises ValueError for an id that does not exist."""
    end = len(ids)
    while end and ids[end - 1] >= FIRST_WORD_ID:
        end -= 1
    detokenize(ids[end:])
    return Prompt(detokenize(ids[:end]), offset=len(ids) - end)


def detokenize(ids: Sequence[int]) -> bytes:
    """The bytes that ids stand for; begin and end of sequence stand for none."""
    out = bytearray()
    for token in ids:
        if FIRST_BYTE_ID <= token < FIRST_BYTE_ID + 256:
            out.append(token - FIRST_BYTE_ID)
        elif FIRST_WORD_ID <= token < FIRST_WORD_ID + WORD_COUNT:
            out += WORDS[token - FIRST_WORD_ID].encode()
        elif token not in (BEGIN_ID, END_ID):
            raise ValueError(f"Token id {token} is out of vocabulary")
    return bytes(out)
