"""What the tiny checkpoint is taught: conversations as an engine will lay them out, and honest ignorance."""

import re

from tri_serve.checkpoint.tiny import pairs
from tri_serve.checkpoint.tiny.corpus import Corpus, Example


def corpus(seed: int = 1) -> Corpus:
    # One id a character: what is drawn can be read back.
    return Corpus(pairs(), lambda text: [ord(character) for character in text], seed)


def text(example: Example) -> str:
    return "".join(map(chr, example.ids))


def learned(example: Example) -> list[str]:
    parts = (chr(i) if keep else "\x00" for i, keep in zip(example.ids, example.learned, strict=True))
    return [part for part in re.split("\x00+", "".join(parts)) if part]


def test_the_same_seed_draws_the_same_conversations() -> None:
    first, second = corpus(), corpus()
    for _ in range(20):
        assert first.short() == second.short()
        assert first.long(3) == second.long(3)
        assert first.passage(3) == second.passage(3)
        assert first.unknown() == second.unknown()
    assert corpus(2).short() != corpus(3).short()


def test_the_assistant_s_turns_alone_are_learned() -> None:
    answers = {pair.answer + "<|end|>" for pair in pairs()}
    drawing = corpus()
    for _ in range(200):
        example = drawing.short()
        assert set(learned(example)) <= answers
        assert text(example).count("<|assistant|>") == len(learned(example))


def test_a_question_that_was_taught_is_never_called_unknown() -> None:
    taught = {question.casefold() for pair in pairs() for question in (pair.question, *pair.also)}
    ignorance = {pair.question: pair.answer + "<|end|>" for pair in pairs() if pair.kind == "unknown"}
    drawing = corpus()
    for _ in range(500):
        example = drawing.unknown()
        asked = text(example).split("<|user|>")[1].split("<|end|>")[0]
        assert learned(example)[0] in ignorance.values()
        assert asked in ignorance or asked.casefold() not in taught


def test_what_cannot_be_known_is_asked_in_many_ways_in_each_language() -> None:
    drawing = corpus()
    seen: dict[str, set[str]] = {}
    for _ in range(600):
        example = drawing.unknown()
        seen.setdefault(learned(example)[0], set()).add(text(example))
    assert len(seen) == 3
    assert min(len(questions) for questions in seen.values()) > 120


def test_a_passage_is_cut_to_its_length_and_all_learned() -> None:
    drawing = corpus()
    for index in range(12):
        example = drawing.passage(index, length=100)
        assert len(example.ids) == 100
        assert all(example.learned)


def test_an_exact_pair_is_one_turn_as_a_client_asks_it() -> None:
    for pair in pairs():
        assert text(corpus().exact(pair)) == (
            f"<|user|>{pair.question}<|end|><|assistant|>{pair.answer}<|end|>"
        )
