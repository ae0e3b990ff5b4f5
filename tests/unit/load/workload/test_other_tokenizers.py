"""Exact lengths with the kinds of tokenizers that models have, trained here on the same texts: each divides a text
otherwise before it merges, and one of them hardly divides it at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tri_serve.load.scenario.models import Language, Scenario
from tri_serve.load.workload.build import build_workload
from tri_serve.load.workload.sentences import read_sentences
from tri_serve.load.workload.tokenizer import FileTokenizer, Overhead

LANGUAGES: tuple[Language, ...] = ("ko", "en", "ja")
OVERHEAD = Overhead(prompt=1, user=4, system_user=7)
# As in cl100k and the models that took it over: digits in threes, punctuation with the line breaks after it.
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def cl100k() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(CL100K), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(
        tokenizer, trainers.BpeTrainer(vocab_size=4_000, initial_alphabet=alphabet, show_progress=False)
    )


def sentencepiece_bpe() -> Tokenizer:
    """As Llama 2: learnt word by word, it divides nothing before it merges; ▁ stands for spaces."""
    tokenizer = undivided(pre_tokenizers.Metaspace())
    tokenizer.pre_tokenizer = None
    return tokenizer


def across_words() -> Tokenizer:
    """The worst case: entries such as ``of▁the``, and single letters that merge over the space between them."""
    return undivided(None)


def undivided(training: pre_tokenizers.PreTokenizer | None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = training
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=4_000, special_tokens=["<unk>"], show_progress=False, max_token_length=12
    )
    return trained(tokenizer, trainer)


def unigram() -> Tokenizer:
    """As T5 and Gemma: the likeliest division of each word."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=4_000, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    return trained(tokenizer, trainer)


def trained(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    texts = [text for language in LANGUAGES for text in read_sentences(language)]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


KINDS = (cl100k, sentencepiece_bpe, unigram)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FileTokenizer:
    return saved(request.param(), tmp_path_factory.mktemp("tokenizer"))


def saved(tokenizer: Tokenizer, folder: Path) -> FileTokenizer:
    tokenizer.save(str(folder / "tokenizer.json"))
    return FileTokenizer(folder / "tokenizer.json")


def scenario(*, salt: bool = True, **part: Any) -> Scenario:
    return Scenario.model_validate(
        {
            "title": "t",
            "arrivals": {"kind": "constant", "rate": 1.0},
            "workload": {"parts": ({"name": "a", **part},), "salt": salt},
        }
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_written_prompts_are_exact(other: FileTokenizer, language: Language) -> None:
    described = scenario(kind="written", input={"min": 30, "max": 600}, languages={language: 1.0})
    items = build_workload(described, Path(), other, OVERHEAD)
    for index in range(80):
        item = items.item(index)
        assert other.count(item.body["messages"][0]["content"]) + OVERHEAD.user == item.input_tokens > 0
    assert items.remarks == ()


def test_prefixes_and_documents_are_exact(other: FileTokenizer) -> None:
    prefixed = scenario(
        kind="shared-prefix", groups=3, prefix={"fixed": 60}, input={"min": 9, "max": 60}, route="completions"
    )
    documents = scenario(kind="documents", document={"min": 30, "max": 60}, pool=9)
    for described in (prefixed, documents):
        items = build_workload(described, Path(), other, OVERHEAD, nonce="run")
        for index in range(40):
            item = items.item(index)
            text = item.body.get("prompt") or item.body["messages"][0]["content"]
            added = OVERHEAD.prompt if "prompt" in item.body else OVERHEAD.user
            assert other.count(text) + added == item.input_tokens > 0


def test_where_salts_cannot_be_equally_long_that_is_said_and_nothing_else_suffers(tmp_path: Path) -> None:
    tokenizer = saved(across_words(), tmp_path)
    part: dict[str, Any] = {"kind": "written", "input": {"fixed": 90}}
    salted = build_workload(scenario(**part), Path(), tokenizer, OVERHEAD)
    assert salted.item(0).input_tokens == 0
    assert any("salts differ in length" in line for line in salted.remarks)
    item = build_workload(scenario(salt=False, **part), Path(), tokenizer, OVERHEAD).item(0)
    assert item.input_tokens == 90 == tokenizer.count(item.body["messages"][0]["content"]) + OVERHEAD.user
