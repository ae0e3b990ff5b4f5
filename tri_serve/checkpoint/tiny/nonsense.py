"""Questions that nobody taught: to them the tiny checkpoint learns to say that it does not know."""

from __future__ import annotations

import random
from collections.abc import Callable

from tri_serve.checkpoint.tiny.pairs import Language

FRAMES: dict[Language, tuple[str, ...]] = {
    "ko": (
        "{}?", "{} {}?", "{}가 뭐예요?", "{}란 무엇인가요?", "{} {} 알려 주세요.", "{}에 대해 설명해 줘",
        "{}는 왜 {}?", "{} {} 추천해 주세요.", "{}의 수도는 어디인가요?", "{} 좀 써 줄래?",
        "누가 {}를 만들었어요?", "{} {} {} 뭐야?", "내일 {} 어때요?", "{}를 영어로 번역해 줘",
        "{} 몇 개야?",
    ),
    "en": (
        "{}?", "{} {}?", "What is {}?", "What is the {} of {}?", "Who {} the {}?", "Why does {} {}?",
        "How do I {} a {}?", "Tell me about {}.", "Write a {} about {}.", "Which {} has the most {}?",
        "Can you {} my {}?", "{} {} {} {}", "Translate {} into {}.", "How many {} are in {}?",
        "When did {} {}, and why?", "Explain {} to me.",
    ),
    "ja": (
        "{}？", "{}{}？", "{}とは何ですか？", "{}の{}を教えてください。", "{}について説明して",
        "なぜ{}は{}ですか？", "{}をおすすめしてください。", "{}の首都はどこですか？",
        "{}を書いてくれますか？", "誰が{}を作りましたか？", "{}{}って何", "明日の{}はどうですか？",
        "{}を英語に訳して", "{}はいくつありますか？",
    ),
}  # fmt: skip
"""How people ask in each language; ``{}`` is any word."""


def nonsense(draw: random.Random, language: Language, text: str) -> str:
    """A question in ``language`` about made-up words, or about pieces of ``text``, as ``draw`` has it."""
    words: tuple[Callable[[], str], ...] = (lambda: _word(draw, language), lambda: _piece(draw, text))
    if draw.random() < 0.7:
        frame = draw.choice(FRAMES[language])
        return frame.format(*(draw.choice(words)() for _ in range(frame.count("{}"))))
    glue = "" if language == "ja" else " "
    return glue.join(draw.choice(words)() for _ in range(draw.randint(2, 6))) + draw.choice(
        ("", "?", ".", "!")
    )


def _piece(draw: random.Random, text: str) -> str:
    start = draw.randrange(len(text) - 16)
    return text[start : start + draw.randint(2, 12)].strip()


def _word(draw: random.Random, language: Language) -> str:
    if language == "en":
        letters = "".join(
            draw.choice(("bcdfghjklmnpqrstvwxyz", "aeiou")[i % 2]) for i in range(draw.randint(2, 9))
        )
        return letters.capitalize() if draw.random() < 0.2 else letters
    if language == "ko":
        # Every Hangul syllable there is: U+AC00 to U+D7A3.
        return "".join(chr(draw.randint(0xAC00, 0xD7A3)) for _ in range(draw.randint(1, 4)))
    ranges = draw.choice(((0x3042, 0x3093), (0x30A2, 0x30F3), (0x4E00, 0x9FA0)))
    return "".join(chr(draw.randint(*ranges)) for _ in range(draw.randint(1, 4)))
