"""Weights on each rank: what vLLM makes of a checkpoint, worked out by hand for each way of storing it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tri_serve.checkpoint.inspect import inspect_checkpoint
from tri_serve.checkpoint.quantization import QuantizationFacts
from tri_serve.checkpoint.tiny import TINY_FORMATS, tiny_checkpoint
from tri_serve.checkpoint.tiny.derive import TinyFormat
from tri_serve.plan.facts import ModelFacts
from tri_serve.plan.weights import (
    engine_dtype,
    loaded_parameter_bytes,
    padded_vocabulary,
    rank_kv_heads,
    rank_linears,
    rank_weights,
)

MakeModel = Callable[..., ModelFacts]

NONE = QuantizationFacts()
AWQ = QuantizationFacts("awq", 4, 128, symmetric=False, layout="gemm")
GPTQ = QuantizationFacts("gptq", 4, 128, layout="gptq")
CT = QuantizationFacts("compressed-tensors", 4, 128, layout="pack-quantized", ignored=("lm_head",))
CT_ASYMMETRIC = QuantizationFacts("compressed-tensors", 4, 128, symmetric=False, layout="pack-quantized")
NF4 = QuantizationFacts("bitsandbytes", 4, symmetric=True, layout="nf4", double_quant=True)

# Inputs and outputs of Tri-21B's linear layers, merged as vLLM merges them: qkv, o, gate and up, down.
MERGED = [(5120, (32 + 2 * 8) * 160), (32 * 160, 5120), (5120, 2 * 27392), (27392, 5120)]
UNQUANTISED = 2 * 124416 * 5120 * 2 + (2 * 40 + 1) * 5120 * 2
AWQ_ZEROS = 40 * sum(k // 128 * n // 8 * 4 for k, n in MERGED)


@pytest.mark.parametrize(
    ("quantization", "layer"),
    [
        (NONE, sum(k * n * 2 for k, n in MERGED)),
        (AWQ, sum(k * n // 2 + k // 128 * (n // 2 + n * 2) for k, n in MERGED)),
        # No g_idx.
        (GPTQ, sum(k * n // 2 + k // 128 * (n // 2 + n * 2) for k, n in MERGED)),
        # Four shapes of two 64-bit numbers, and six scales of the attention: three in float32, three in bfloat16.
        (CT, sum(k * n // 2 + k // 128 * n * 2 + 16 for k, n in MERGED) + 3 * 4 + 3 * 2),
        (
            CT_ASYMMETRIC,
            sum(k * n // 2 + k // 128 * (n // 2 + n * 2) + 16 for k, n in MERGED) + 3 * 4 + 3 * 2,
        ),
        # Scales are attributes of the parameter, and no parameters.
        (NF4, sum(k * n // 2 for k, n in MERGED)),
    ],
    ids=["none", "awq", "gptq", "compressed-tensors", "compressed-tensors asymmetric", "nf4"],
)
def test_loaded_parameters_are_those_that_the_engine_makes(
    model: MakeModel, quantization: QuantizationFacts, layer: int
) -> None:
    assert loaded_parameter_bytes(model(quantization)) == 40 * layer + UNQUANTISED


# Per layer of the tiny checkpoint, merged: (256, 960), (640, 256), (256, 1024), (512, 256).
TINY_WEIGHTS = 256 * 960 + 640 * 256 + 256 * 1024 + 512 * 256
TINY_GROUPS = 2 * 960 + 5 * 256 + 2 * 1024 + 4 * 256
TINY_LAYERS: dict[TinyFormat, int] = {
    "bf16": TINY_WEIGHTS * 2,
    "awq": TINY_WEIGHTS // 2 + TINY_GROUPS // 2 + TINY_GROUPS * 2,
    "gptq": TINY_WEIGHTS // 2 + TINY_GROUPS // 2 + TINY_GROUPS * 2,
    "ct": TINY_WEIGHTS // 2 + TINY_GROUPS * 2 + 4 * 16 + 18,
    "bnb4": TINY_WEIGHTS // 2,
}


@pytest.mark.parametrize("fmt", TINY_FORMATS)
def test_the_tiny_checkpoint_is_loaded_as_by_hand(fmt: TinyFormat, tmp_path: Path) -> None:
    found = inspect_checkpoint(tiny_checkpoint(fmt, tmp_path))
    facts = ModelFacts(found.architecture, found.quantization, found.tensors, "a test", from_checkpoint=True)
    assert loaded_parameter_bytes(facts) == 4 * TINY_LAYERS[fmt] + 2 * 1024 * 256 * 2 + 9 * 256 * 2


def test_a_vocabulary_is_padded_to_64(model: MakeModel) -> None:
    odd, even = model(NONE, vocab_size=124_417), model(NONE, vocab_size=124_480)
    assert padded_vocabulary(odd.architecture) == 124_480
    assert loaded_parameter_bytes(odd) == loaded_parameter_bytes(even)


def test_tied_embeddings_are_kept_once(model: MakeModel) -> None:
    tied = model(NONE, tie_word_embeddings=True)
    assert loaded_parameter_bytes(model(NONE)) - loaded_parameter_bytes(tied) == 124_416 * 5120 * 2


def test_what_is_not_quantised_is_kept_in_the_engines_type(model: MakeModel) -> None:
    facts = model(NONE, torch_dtype="float32")
    assert loaded_parameter_bytes(facts, dtype="float32") == 2 * loaded_parameter_bytes(facts)
    assert loaded_parameter_bytes(facts, dtype="auto") == loaded_parameter_bytes(facts, dtype="bfloat16")


@pytest.mark.parametrize(
    ("checkpoint", "capability", "computed"),
    [
        ("float32", (8, 0), "bfloat16"),
        ("float32", (7, 5), "float16"),
        ("float32", None, "bfloat16"),
        ("bfloat16", (7, 5), "float16"),
        ("bfloat16", (9, 0), "bfloat16"),
        ("float16", (9, 0), "float16"),
        ("float16", None, "float16"),
    ],
)
def test_auto_is_the_checkpoints_type_where_the_device_has_it(
    model: MakeModel, checkpoint: str, capability: tuple[int, int] | None, computed: str
) -> None:
    architecture = model(NONE, torch_dtype=checkpoint).architecture
    assert engine_dtype("auto", architecture, capability) == computed
    assert engine_dtype("float32", architecture, capability) == "float32"


def test_biases_are_split_with_outputs_and_whole_where_inputs_are_split(model: MakeModel) -> None:
    biased = model(NONE, attention_bias=True, mlp_bias=True)
    bare = loaded_parameter_bytes(model(NONE), 2)
    assert loaded_parameter_bytes(biased, 2) - bare == 40 * 2 * ((16 + 2 * 4) * 160 + 5120 + 27392 + 5120)


def test_a_layer_that_is_left_out_stays_whole(model: MakeModel) -> None:
    kept = QuantizationFacts(
        "awq", 4, 128, symmetric=False, layout="gemm", ignored=("layers.0.mlp.down_proj",)
    )
    k, n = MERGED[3]
    more = k * n * 2 - (k * n // 2 + k // 128 * (n // 2 + n * 2))
    assert loaded_parameter_bytes(model(kept)) - loaded_parameter_bytes(model(AWQ)) == more


@pytest.mark.parametrize(("ranks", "heads"), [(1, 8), (2, 4), (8, 1), (16, 1)])
def test_key_value_heads_are_shared_out_and_then_copied(model: MakeModel, ranks: int, heads: int) -> None:
    assert rank_kv_heads(model().architecture, ranks) == heads
    qkv = rank_linears(model().architecture, ranks)[0]
    assert qkv.outputs == (32 // ranks + 2 * heads) * 160


def test_ranks_have_half_of_everything_but_norms(model: MakeModel) -> None:
    norms = (2 * 40 + 1) * 5120 * 2
    one, two = (loaded_parameter_bytes(model(AWQ), ranks) for ranks in (1, 2))
    assert two - norms == (one - norms) // 2


def test_one_scale_for_all_inputs_is_on_every_rank(model: MakeModel) -> None:
    whole = QuantizationFacts("gptq", 4, None, layout="gptq")
    norms = (2 * 40 + 1) * 5120 * 2
    one, two = (loaded_parameter_bytes(model(whole), ranks) - norms for ranks in (1, 2))
    # o_proj and down_proj are split along their inputs: the second rank has all of their scales too.
    repeated = 40 * 2 * (5120 * 2 + 5120 // 2)
    assert 2 * two == one + repeated


@pytest.mark.parametrize(
    ("quantization", "capability", "change"),
    [
        (AWQ, (8, 9), 0),
        # Machete keeps zero points unpacked: two bytes each in place of half a byte.
        (AWQ, (9, 0), 3 * AWQ_ZEROS),
        (CT_ASYMMETRIC, (9, 0), 3 * AWQ_ZEROS),
        (CT, (9, 0), 0),
        # Marlin drops the zero points of a symmetric GPTQ checkpoint; Machete leaves them.
        (GPTQ, (8, 0), -AWQ_ZEROS),
        (GPTQ, (9, 0), 0),
        (GPTQ, None, 0),
        # A float32 for each 64 weights: not in the checkpoint, where they are rounded twice.
        (NF4, (8, 9), 40 * sum(k * n // 64 * 4 for k, n in MERGED)),
        (NONE, (9, 0), 0),
    ],
)
def test_kernels_keep_more_or_less_than_is_loaded(
    model: MakeModel, quantization: QuantizationFacts, capability: Any, change: int
) -> None:
    facts = model(quantization)
    kept = rank_weights(facts, compute_capability=capability).total
    assert kept - loaded_parameter_bytes(facts) == change


def test_nf4_takes_a_gigabyte_more_on_the_gpu_than_on_disk(model: MakeModel) -> None:
    facts = model(NF4)
    assert rank_weights(facts, compute_capability=(8, 9)).total - facts.weight_bytes > 0.8 * 10**9


def test_groups_of_32_are_not_for_machete(model: MakeModel) -> None:
    small = QuantizationFacts("awq", 4, 32, symmetric=False, layout="gemm")
    assert rank_weights(model(small), compute_capability=(9, 0)).total == loaded_parameter_bytes(model(small))
