"""How the weights are stored is read from config.json, as each tool writes it."""

from pathlib import Path
from typing import Any

import pytest

from tri_serve.checkpoint.quantization import QuantizationFacts, check_quantization, quantization_from
from tri_serve.checkpoint.tiny.pack import PACKERS
from tri_serve.errors import CheckpointError

WHERE = Path("/models/tri/config.json")


def facts_of(section: object) -> QuantizationFacts:
    return quantization_from({"quantization_config": section, "torch_dtype": "bfloat16"}, WHERE)


def test_no_quantization_config_means_none() -> None:
    facts = quantization_from({"torch_dtype": "bfloat16"}, WHERE)
    assert (facts.method, facts.bits, facts.group_size, facts.label) == ("none", 16, None, "none")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("awq", QuantizationFacts("awq", 4, 128, symmetric=False, layout="gemm")),
        ("gptq", QuantizationFacts("gptq", 4, 128, layout="gptq")),
        (
            "ct",
            QuantizationFacts("compressed-tensors", 4, 128, layout="pack-quantized", ignored=("lm_head",)),
        ),
    ],
)
def test_the_formats_of_the_tiny_checkpoint_are_read(name: str, expected: QuantizationFacts) -> None:
    assert facts_of(PACKERS[name][1]) == expected


@pytest.mark.parametrize(
    ("section", "bits", "layout"),
    [
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, 4, "nf4"),
        ({"_load_in_4bit": True}, 4, "fp4"),
        ({"load_in_8bit": True}, 8, "int8"),
    ],
)
def test_bitsandbytes_is_read(section: dict[str, Any], bits: int, layout: str) -> None:
    facts = facts_of(section | {"quant_method": "bitsandbytes"})
    assert (facts.method, facts.bits, facts.layout) == ("bitsandbytes", bits, layout)


def test_a_group_size_of_minus_one_is_one_group() -> None:
    assert facts_of({"quant_method": "gptq", "bits": 4, "group_size": -1}).group_size is None


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("awq", "quantization_config is a string; an object is needed"),
        (
            {},
            "quant_method is not there; 'awq' or 'gptq' or 'compressed-tensors' or 'bitsandbytes' is needed",
        ),
        ({"quant_method": "fp8"}, 'quant_method is "fp8"'),
        ({"quant_method": "awq"}, "bits is not there; a whole number"),
        ({"quant_method": "awq", "bits": 3}, "bits is 3; 4 or 8"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0}, "group_size is 0; a whole number"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "'pack-quantized'"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "one scheme of weights"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"a": {"weights": {"num_bits": 4}}, "b": {"weights": {"num_bits": 8}}},
            },
            "one scheme of weights",
        ),
    ],
)
def test_what_cannot_be_understood_is_refused(section: object, message: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        facts_of(section)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{WHERE}: quantization_config")


@pytest.mark.parametrize(
    ("rule", "layer", "left_out"),
    [
        ("lm_head", "lm_head", True),
        ("lm_head", "model.layers.0.mlp.up_proj", False),
        ("mlp.up_proj", "model.layers.0.mlp.up_proj", True),
        ("layers.1", "model.layers.1.mlp.up_proj", True),
        ("layers.1", "model.layers.11.mlp.up_proj", False),
        ("re:.*up_proj", "model.layers.0.mlp.up_proj", True),
        ("re:up_proj", "model.layers.0.mlp.up_proj", False),
    ],
)
def test_layers_are_left_out_by_name_part_or_expression(rule: str, layer: str, left_out: bool) -> None:
    assert QuantizationFacts("awq", 4, 128, ignored=(rule,)).leaves_out(layer) is left_out


@pytest.mark.parametrize("requested", ["auto", "awq"])
def test_a_spec_that_agrees_with_the_checkpoint_passes(requested: str) -> None:
    check_quantization(requested, QuantizationFacts("awq", 4, 128))


@pytest.mark.parametrize(("requested", "method"), [("gptq", "awq"), ("none", "awq"), ("awq", "none")])
def test_a_spec_that_disagrees_is_refused_with_what_is_allowed(requested: str, method: Any) -> None:
    with pytest.raises(CheckpointError) as refused:
        check_quantization(requested, QuantizationFacts(method), Path("/models/tri"))
    assert str(refused.value) == (
        f"model.quantization is {requested}, and config.json in /models/tri says {method}; "
        f"'auto' or '{method}' is allowed"
    )
    assert refused.value.hint == "set model.quantization to auto: it is read from config.json"


@pytest.mark.parametrize("rule", ["re:(", "re:*", "re:a{99999999999999999999}", "re:" + "(" * 5000])
@pytest.mark.parametrize(
    ("method", "key"), [("awq", "modules_to_not_convert"), ("bitsandbytes", "llm_int8_skip_modules")]
)
def test_a_rule_that_is_no_regular_expression_is_refused(method: str, key: str, rule: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{key} is .*; a list of names and of regular expressions"):
        facts_of({"quant_method": method, "bits": 4, "load_in_4bit": True, key: ["lm_head", rule]})
