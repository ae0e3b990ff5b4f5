"""The tiny checkpoint knows its answers by heart, in every format, and no rounding is near to changing them."""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tri_serve.checkpoint.architecture import read_architecture
from tri_serve.checkpoint.safetensors import read_header
from tri_serve.checkpoint.tiny import pack, pairs
from tri_serve.checkpoint.tiny.derive import SOURCE
from tri_serve.checkpoint.tiny.margins import answer_margins, round_linears

Weights = dict[str, NDArray[np.float32]]
NARROWEST = 4.0
"""Nats. An engine computes in bfloat16, which has been seen to cost up to 2 nats late in a long answer."""

ROUNDINGS = {
    "bf16": None,
    "awq": pack.round_with_zero,
    "gptq and compressed-tensors": pack.round_symmetric,
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(SOURCE / "tokenizer.json"))


@pytest.fixture(scope="module")
def bf16() -> Weights:
    return {
        name: pack.from_bfloat16(tensor.read(), tensor.shape)
        for name, tensor in read_header(SOURCE / "model.safetensors").items()
    }


def test_there_are_enough_pairs_in_each_language() -> None:
    counts = Counter((pair.language, pair.kind) for pair in pairs())
    for language in ("ko", "en", "ja"):
        assert counts[language, "short"] >= 12
        assert counts[language, "long"] >= 2
        assert counts[language, "unknown"] == 1


def test_no_two_pairs_share_a_question() -> None:
    questions = [question for pair in pairs() for question in (pair.question, *pair.also)]
    assert len(set(questions)) == len(questions)


def test_long_answers_have_at_least_600_tokens(tokenizer: Tokenizer) -> None:
    lengths = [len(tokenizer.encode(pair.answer).ids) for pair in pairs() if pair.kind == "long"]
    assert min(lengths) >= 600


def test_the_tokenizer_gives_back_any_text(tokenizer: Tokenizer) -> None:
    for text in ("뷁 🦜 鬱 café \u202e \t\n", "\x00", *(pair.answer for pair in pairs())):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_some_characters_are_split_over_tokens(tokenizer: Tokenizer) -> None:
    for language in ("ko", "en", "ja"):
        text = "".join(pair.answer for pair in pairs() if pair.language == language)
        split = [
            piece
            for piece in tokenizer.encode(text).ids
            if "\N{REPLACEMENT CHARACTER}" in tokenizer.decode([piece])
        ]
        assert len(split) >= 20


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_every_token_of_every_answer_leads_by_a_wide_margin(
    rounding: str, bf16: Weights, tokenizer: Tokenizer
) -> None:
    weights = round_linears(bf16, ROUNDINGS[rounding])
    margins = answer_margins(
        read_architecture(SOURCE), weights, pairs(), lambda text: tokenizer.encode(text).ids
    )
    narrowest = min(margins, key=margins.__getitem__)
    assert margins[narrowest] >= NARROWEST, narrowest
