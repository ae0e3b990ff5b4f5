"""The sentences that prompts are made of: enough of them, in their own language, each once."""

from __future__ import annotations

import re

import pytest

from tri_serve.load.scenario.models import Language
from tri_serve.load.workload.sentences import read_sentences

LETTERS: dict[Language, str] = {"ko": "[가-힣]", "en": "[A-Za-z]", "ja": "[ぁ-んァ-ヶー一-龯々]"}


@pytest.mark.parametrize("language", LETTERS)
def test_there_are_thousands_of_words_and_no_sentence_twice(language: Language) -> None:
    sentences = read_sentences(language)
    assert len(set(sentences)) == len(sentences) > 150
    # Japanese has no spaces; a word is about two characters and a half of it.
    words = sum(len(text) / 2.5 if language == "ja" else len(text.split()) for text in sentences)
    assert words > 2_000


@pytest.mark.parametrize("language", LETTERS)
def test_each_sentence_is_of_its_language_and_ends(language: Language) -> None:
    for sentence in read_sentences(language):
        letters = re.findall(r"\w", sentence)
        assert len(re.findall(LETTERS[language], sentence)) == len(letters)
        assert sentence[-1] in ".?!。？！"
        assert sentence == sentence.strip()
