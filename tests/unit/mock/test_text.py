"""The mock's tokenizer: answers follow from the prompt, and ids continue them."""

from __future__ import annotations

import pytest

from tri_serve.mock.text import (
    FIRST_WORD_ID,
    WORD_COUNT,
    WORDS,
    Prompt,
    detokenize,
    prompt_of_ids,
    word_index,
)


def test_ids_of_a_prompt_give_the_prompt_back() -> None:
    prompt = Prompt("안녕 hello 🙂".encode())
    assert detokenize(prompt.ids()) == prompt.content
    assert prompt.count == len(prompt.ids())


def test_words_at_the_end_of_a_prompt_of_ids_are_the_answer_so_far() -> None:
    prompt = Prompt("질문".encode())
    so_far = [FIRST_WORD_ID + word_index(prompt.seed, k) for k in range(5)]
    continued = prompt_of_ids([*prompt.ids(), *so_far])
    assert continued == Prompt(prompt.content, offset=5)
    assert continued.ids() == [*prompt.ids(), *so_far]


def test_an_id_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=str(FIRST_WORD_ID + WORD_COUNT)):
        prompt_of_ids([1, FIRST_WORD_ID + WORD_COUNT])


def test_every_word_is_met_before_one_comes_again() -> None:
    assert len(set(WORDS)) == WORD_COUNT
    assert {word_index(12345, k) for k in range(WORD_COUNT)} == set(range(WORD_COUNT))
