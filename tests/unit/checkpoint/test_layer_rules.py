"""Expressions of a foreign config.json can be tried in a short time, or are refused."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tri_serve.checkpoint.layer_rules import MOST_WAYS, ways
from tri_serve.checkpoint.quantization import QuantizationFacts, quantization_from
from tri_serve.errors import CheckpointError

LAYER = "model.language_model.layers.123.self_attn.indexer.weights_proj"


def facts(*rules: str) -> QuantizationFacts:
    section = {"quant_method": "awq", "bits": 4, "modules_to_not_convert": [f"re:{rule}" for rule in rules]}
    return quantization_from({"quantization_config": section}, Path("config.json"))


@pytest.mark.parametrize(
    "rule",
    [
        r"([\w.]+)+!",
        r"(\w|\d)*!",
        r"((\w*)\.?)*!",
        r"(?:\w+){1,40}!",
        r"(?P<a>.*?)+?!",
        "(m?){99}" + "m" * 99,
        r"\w?" * 64 + "!",
        ".*" * 9 + "!",
        "(|)" * 99 + "!",
        r"(?i)x",
        "x" * 5_000,
        "(((((" + "a*" + ")*" * 5,
        "(((){999}){999}){999}x",
        "(){2000000000}x",
        "(a{0}){2000,}",
        r"(\)*)*",
        r"([)]*)*",
    ],
)
def test_an_expression_that_may_never_end_is_refused(rule: str) -> None:
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=r"modules_to_not_convert is .*re:.*in a short time"):
        facts(rule)
    assert time.monotonic() - began < 1


def test_too_many_expressions_are_refused() -> None:
    assert ways(["a"] * 500) < MOST_WAYS < ways(["a"] * 5_000)


@pytest.mark.parametrize(
    ("rule", "left_out"),
    [
        (r".*weights_proj$", True),
        (r".*\.self_attn\..*", True),
        (r"^model\.(?:vision|language_model)\.layers\.(1[0-9]{2}|2[0-3])\..*proj", True),
        (r"(?!.*lm_head).*attn.*", True),
        (r"[\w.]+\.(q|k|v|o)_proj", False),
        (r"model\.layers\.\d{1,3}\.mlp\.(gate|up)?_proj", False),
        (r"[]()*+?{}|]+", False),
        (r"lm_head", False),
    ],
)
def test_what_real_checkpoints_have_is_tried(rule: str, left_out: bool) -> None:
    assert facts(rule).leaves_out(LAYER) is left_out


@pytest.mark.parametrize("rule", [".*.*.*!", "(?:a|b|.*).*.*!", r"\w?" * 20 + "!", r"(?:.?.?){8}!"])
def test_the_worst_that_is_taken_ends_soon(rule: str) -> None:
    read = facts(rule)
    began = time.monotonic()
    read.leaves_out(LAYER)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("rule", ["(", ")", "a)", "[", "*", "a{2,1}", "(?", "(?P<", "\\"])
def test_what_is_no_expression_is_refused(rule: str) -> None:
    with pytest.raises(CheckpointError, match="regular expressions"):
        facts(rule)
