"""The bytes of a checkpoint that is not there: equal to arithmetic by formula, and to what its header says."""

from pathlib import Path
from typing import Any

import pytest

from tri_serve.checkpoint.architecture import Architecture, architecture_from
from tri_serve.checkpoint.inspect import inspect_checkpoint
from tri_serve.checkpoint.layout import expected_tensors
from tri_serve.checkpoint.quantization import quantization_from
from tri_serve.checkpoint.sizes import tensor_sizes, write_hollow_checkpoint
from tri_serve.checkpoint.tiny import TINY_FORMATS, tiny_checkpoint
from tri_serve.checkpoint.tiny.derive import TinyFormat

WHERE = Path("/models/tri/config.json")

TRI_21B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 5120,
    "intermediate_size": 27392,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 160,
    "vocab_size": 124416,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}

# Inputs K and outputs N of the seven linear layers, written out.
LINEARS = [
    (5120, 32 * 160),
    (5120, 8 * 160),
    (5120, 8 * 160),
    (32 * 160, 5120),
    (5120, 27392),
    (5120, 27392),
    (27392, 5120),
]
UNQUANTISED = 2 * (124416 * 5120) * 2 + (2 * 40 + 1) * 5120 * 2
"""Embedding, lm_head and norms, in bfloat16."""


def awq(group: int) -> dict[str, Any]:
    return {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}


def gptq(group: int) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": 4, "group_size": group, "sym": True, "desc_act": False}


def compressed(group: int, *, symmetric: bool = True) -> dict[str, Any]:
    weights = {"num_bits": 4, "symmetric": symmetric, "strategy": "group", "group_size": group}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }


def bitsandbytes(**more: object) -> dict[str, Any]:
    return {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        **more,
    }


def awq_bytes(group: int) -> int:
    return sum(k * n // 2 + k // group * n // 8 * 4 + k // group * n * 2 for k, n in LINEARS)


def compressed_bytes(group: int) -> int:
    return sum(k * n // 2 + k // group * n * 2 + 16 for k, n in LINEARS)


def nf4_bytes() -> int:
    """Two weights a byte, a byte for each 64, 4 bytes for each 256 of those, two tables of floats, and a text."""

    def state(k: int, n: int) -> int:
        return len(
            '{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", '
            f'"shape": [{n}, {k}], "nested_blocksize": 256, "nested_dtype": "float32", '
            '"nested_offset": 0.03527599573135376}'
        )

    return sum(
        k * n // 2 + k * n // 64 + k * n // 64 // 256 * 4 + 16 * 4 + 256 * 4 + state(k, n) for k, n in LINEARS
    )


FORMATS: dict[str, tuple[dict[str, Any] | None, int, int]] = {
    # The way of storing weights, bytes by formula, and the same sum as a number.
    "bf16": (None, 40 * sum(k * n * 2 for k, n in LINEARS), 41_451_038_720),
    "awq g128": (awq(128), 40 * awq_bytes(128), 12_654_315_520),
    "awq g64": (awq(64), 40 * awq_bytes(64), 13_034_219_520),
    "awq g32": (awq(32), 40 * awq_bytes(32), 13_794_027_520),
    "gptq g128": (gptq(128), 40 * (awq_bytes(128) + sum(4 * k for k, _ in LINEARS)), 12_663_613_440),
    "compressed-tensors g128": (compressed(128), 40 * compressed_bytes(128), 12_578_339_200),
    "compressed-tensors g64": (compressed(64), 40 * compressed_bytes(64), 12_882_262_400),
    "compressed-tensors g32": (compressed(32), 40 * compressed_bytes(32), 13_490_108_800),
    "compressed-tensors g128 asymmetric": (
        compressed(128, symmetric=False),
        40 * (compressed_bytes(128) + sum(k // 128 * n // 8 * 4 for k, n in LINEARS)),
        12_654_320_000,
    ),
    "nf4, double-quantised": (bitsandbytes(), 40 * nf4_bytes(), 12_583_436_440),
}


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_of_tri_21b_are_those_of_the_formula_and_of_its_header(name: str, tmp_path: Path) -> None:
    section, linear_bytes, total = FORMATS[name]
    config = TRI_21B | ({"quantization_config": section} if section else {})
    write_hollow_checkpoint(tmp_path / "tri", config)
    facts = inspect_checkpoint(tmp_path / "tri")
    assert facts.total_bytes == UNQUANTISED + linear_bytes == total
    assert facts.parameters == 20_725_519_360
    sizes = tensor_sizes(facts.architecture, facts.quantization)
    assert sizes == facts.tensors
    assert sum(size.nbytes for size in sizes.values()) == total


def test_a_hollow_checkpoint_takes_next_to_nothing_on_disk(tmp_path: Path) -> None:
    write_hollow_checkpoint(tmp_path / "tri", TRI_21B)
    shards = list((tmp_path / "tri").glob("*.safetensors"))
    assert sum(shard.stat().st_size for shard in shards) > 41 * 10**9
    assert sum(shard.stat().st_blocks * 512 for shard in shards) < 10**6


@pytest.mark.parametrize("fmt", TINY_FORMATS)
def test_the_tiny_checkpoint_has_the_tensors_that_are_computed(fmt: TinyFormat, tmp_path: Path) -> None:
    facts = inspect_checkpoint(tiny_checkpoint(fmt, tmp_path))
    computed = tensor_sizes(facts.architecture, facts.quantization)
    # bitsandbytes writes a number as text there, whose digits are not known before.
    states = {name for name in facts.tensors if "quant_state" in name}
    assert {name: size for name, size in computed.items() if name not in states} == {
        name: tensor for name, tensor in facts.tensors.items() if name not in states
    }
    assert all(abs(computed[name].nbytes - facts.tensors[name].nbytes) <= 8 for name in states)


def small(config: dict[str, Any], section: dict[str, Any] | None) -> tuple[Architecture, dict[str, Any]]:
    config = config | {"quantization_config": section}
    architecture = architecture_from(config, WHERE)
    return architecture, dict(tensor_sizes(architecture, quantization_from(config, WHERE)))


Q_PROJ = "model.layers.0.self_attn.q_proj"


def test_groups_that_are_reordered_need_their_order(config: dict[str, Any]) -> None:
    section = compressed(4)
    section["config_groups"]["group_0"]["weights"]["actorder"] = "group"
    _, sizes = small(config, section)
    assert sizes[f"{Q_PROJ}.weight_g_idx"].shape == (8,)


def test_layers_left_out_stay_as_they_were(config: dict[str, Any]) -> None:
    _, sizes = small(config, awq(4) | {"modules_to_not_convert": ["self_attn.q_proj"]})
    assert sizes[f"{Q_PROJ}.weight"].nbytes == 24 * 8 * 2
    assert f"{Q_PROJ}.qweight" not in sizes
    assert "model.layers.0.self_attn.k_proj.qweight" in sizes


def test_bitsandbytes_keeps_full_scales_where_they_are_not_rounded(config: dict[str, Any]) -> None:
    _, sizes = small(config, bitsandbytes(bnb_4bit_use_double_quant=False))
    assert (sizes[f"{Q_PROJ}.weight.absmax"].dtype, sizes[f"{Q_PROJ}.weight.absmax"].shape) == ("F32", (3,))
    assert not any("nested" in name for name in sizes)


def test_bitsandbytes_in_8_bits_has_a_scale_for_each_output(config: dict[str, Any]) -> None:
    _, sizes = small(config, {"quant_method": "bitsandbytes", "load_in_8bit": True})
    assert sizes[f"{Q_PROJ}.weight"].nbytes == 24 * 8
    assert sizes[f"{Q_PROJ}.SCB"].nbytes == 24 * 4
    assert sizes[f"{Q_PROJ}.weight_format"].nbytes == 1


def test_the_type_that_4_bit_weights_are_stored_as_changes_no_bytes(
    config: dict[str, Any], tmp_path: Path
) -> None:
    section = bitsandbytes(bnb_4bit_quant_storage="bfloat16")
    write_hollow_checkpoint(tmp_path / "small", config | {"quantization_config": section})
    tensor = inspect_checkpoint(tmp_path / "small").tensors[f"{Q_PROJ}.weight"]
    assert (tensor.dtype, tensor.shape, tensor.nbytes) == ("BF16", (24 * 8 // 4, 1), 24 * 8 // 2)


def test_biases_are_there_where_config_json_says_so(config: dict[str, Any], tmp_path: Path) -> None:
    write_hollow_checkpoint(tmp_path / "small", config | {"attention_bias": True})
    tensors = inspect_checkpoint(tmp_path / "small").tensors
    biases = {name: tensor.shape for name, tensor in tensors.items() if name.endswith("bias")}
    assert biases[f"{Q_PROJ}.bias"] == (24,)
    assert len(biases) == 2 * 4


@pytest.mark.parametrize("section", [None, awq(4), gptq(4), compressed(4), bitsandbytes()])
def test_nothing_that_is_required_is_missing(config: dict[str, Any], section: dict[str, Any] | None) -> None:
    config = config | {"tie_word_embeddings": True}
    architecture, sizes = small(config, section)
    quantization = quantization_from(config | {"quantization_config": section}, WHERE)
    expected = expected_tensors(architecture, quantization)
    assert {name for name, tensor in expected.items() if tensor.required} <= set(sizes) <= set(expected)
    assert "lm_head.weight" not in sizes
