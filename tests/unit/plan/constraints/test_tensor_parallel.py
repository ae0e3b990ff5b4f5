"""Spreading over GPUs: Tri-21B's 27,392 = 214 * 128 inputs of down_proj decide what works."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tri_serve.checkpoint.quantization import QuantizationFacts
from tri_serve.plan.constraints import Request
from tri_serve.plan.result import Finding

Ask = Callable[..., Request]
Find = Callable[[Request, str], tuple[Finding, ...]]
Only = Callable[[Request, str], Finding]

RULE = "group-size-tensor-parallel"
CT = QuantizationFacts("compressed-tensors", 4, 128, layout="pack-quantized")


@pytest.mark.parametrize(("group", "most"), [(128, 2), (64, 4), (32, 8)])
@pytest.mark.parametrize("method", ["awq", "gptq", "compressed-tensors"])
def test_each_group_size_works_up_to_its_own_number_of_gpus(
    ask: Ask, found: Find, group: int, most: int, method: str
) -> None:
    for ranks in (1, 2, 4, 8):
        facts = QuantizationFacts(method, 4, group, symmetric=method != "awq")  # type: ignore[arg-type]
        request = ask(quantization=facts, engine={"tensor_parallel_size": ranks})
        assert bool(found(request, RULE)) == (ranks > most), (group, ranks)


def test_a_cut_group_is_refused_with_the_numbers_and_what_works(ask: Ask, only: Only) -> None:
    finding = only(ask(quantization=CT, engine={"tensor_parallel_size": 4}), RULE)
    assert finding.severity == "refusal"
    assert "down_proj 6,848 = 53.5 × 128" in finding.message
    assert "refuses to load" in finding.message
    assert finding.change == {"engine.tensor_parallel_size": "2"}
    assert finding.advice == "a checkpoint quantised in groups of 64 works with engine.tensor_parallel_size 4"


@pytest.mark.parametrize(
    ("gpu", "method", "words"),
    [
        ("l4", "gptq", "in gptq checkpoints: each GPU takes"),
        ("h100", "gptq", "in gptq checkpoints: each GPU takes"),
        ("cpu", "awq", "in awq checkpoints on the CPU: each rank takes"),
        ("cpu", "gptq", "in gptq checkpoints on the CPU: each rank takes"),
    ],
)
@pytest.mark.parametrize("ranks", [4, 8])
def test_where_no_check_of_the_engine_catches_it_the_refusal_says_so(
    ask: Ask, only: Only, gpu: str, method: str, words: str, ranks: int
) -> None:
    finding = only(ask(gpu, method, engine={"tensor_parallel_size": ranks}), RULE)
    assert words in finding.message
    assert "wrong without an error" in finding.message


@pytest.mark.parametrize("ranks", [4, 8])
def test_on_the_cpu_compressed_tensors_alone_checks_groups(ask: Ask, only: Only, ranks: int) -> None:
    finding = only(ask("cpu", CT, engine={"tensor_parallel_size": ranks}), RULE)
    assert "refuses to load such a layer" in finding.message
    assert "on each rank" in finding.message


@pytest.mark.parametrize("ranks", [4, 8])
def test_on_a_gpu_awq_checks_groups_too(ask: Ask, only: Only, ranks: int) -> None:
    finding = only(ask("l4", "awq", engine={"tensor_parallel_size": ranks}), RULE)
    assert "The input size is not aligned" in finding.message


def test_layers_that_are_not_quantised_have_no_groups_to_cut(ask: Ask, found: Find) -> None:
    spared = replace(CT, ignored=("down_proj",))
    assert found(ask(quantization=spared, engine={"tensor_parallel_size": 4}), RULE) == ()
    assert found(ask(quantization="none", engine={"tensor_parallel_size": 4}), RULE) == ()


@pytest.mark.parametrize(("ranks", "works"), [(3, "2"), (5, "4"), (6, "4"), (7, "4")])
def test_query_heads_that_do_not_divide_are_refused(ask: Ask, only: Only, ranks: int, works: str) -> None:
    finding = only(ask(quantization="none", engine={"tensor_parallel_size": ranks}), "heads-tensor-parallel")
    assert f"32 query heads cannot be spread evenly over {ranks} GPUs" in finding.message
    assert finding.change == {"engine.tensor_parallel_size": works}


def test_query_heads_that_divide_pass(ask: Ask, found: Find) -> None:
    for ranks in (1, 2, 4, 8, 16, 32):
        assert found(ask(engine={"tensor_parallel_size": ranks}), "heads-tensor-parallel") == ()


def test_key_value_heads_divide_or_are_divided(ask: Ask, found: Find, only: Only) -> None:
    rule, config = "kv-heads-tensor-parallel", {"num_attention_heads": 24, "num_key_value_heads": 6}
    assert found(ask(quantization="none", engine={"tensor_parallel_size": 3}, config=config), rule) == ()
    finding = only(ask(quantization="none", engine={"tensor_parallel_size": 4}, config=config), rule)
    assert finding.severity == "refusal"
    assert "6 key-value heads and 4 GPUs" in finding.message


def test_more_gpus_than_key_value_heads_bring_no_kv_cache_and_that_is_said(ask: Ask, found: Find) -> None:
    (finding,) = found(ask(engine={"tensor_parallel_size": 16}), "kv-heads-tensor-parallel")
    assert finding.severity == "note"
    assert "each head is kept 2 times" in finding.message


def test_a_width_that_does_not_divide_is_refused(ask: Ask, found: Find, only: Only) -> None:
    config = {"intermediate_size": 1026, "num_attention_heads": 32}
    assert found(ask(quantization="none", engine={"tensor_parallel_size": 4}), "sizes-tensor-parallel") == ()
    finding = only(
        ask(quantization="none", engine={"tensor_parallel_size": 4}, config=config), "sizes-tensor-parallel"
    )
    assert finding.change == {"engine.tensor_parallel_size": "2"}


def test_a_part_that_does_not_fill_its_words_is_refused(ask: Ask, found: Find, only: Only) -> None:
    whole = QuantizationFacts("awq", 4, None, symmetric=False)
    assert found(ask(engine={"tensor_parallel_size": 8}), "packed-words-tensor-parallel") == ()
    finding = only(
        ask(quantization=whole, engine={"tensor_parallel_size": 4}, config={"intermediate_size": 1040}),
        "packed-words-tensor-parallel",
    )
    assert "mlp.gate_proj has 260 outputs on each of 4 GPUs, no multiple of the 8 weights" in finding.message
    assert finding.change == {"engine.tensor_parallel_size": "2"}


def test_an_engine_cannot_have_more_gpus_than_there_are(ask: Ask, found: Find, only: Only) -> None:
    three = {"seen": "this machine", "count": 3}
    finding = only(ask(engine={"tensor_parallel_size": 4}, device=three), "gpus-tensor-parallel")
    assert finding.severity == "refusal"
    assert "3 × NVIDIA L4 24 GB are there" in finding.message
    assert finding.change == {"engine.tensor_parallel_size": "2"}
    assert found(ask(engine={"tensor_parallel_size": 2}, device=three), "gpus-tensor-parallel") == ()


def test_for_a_gpu_of_the_catalogue_the_number_of_cards_is_only_said(ask: Ask, found: Find) -> None:
    (finding,) = found(ask(engine={"tensor_parallel_size": 2}), "gpus-tensor-parallel")
    assert finding.severity == "note"
    assert "2 × NVIDIA L4 24 GB" in finding.message


def test_for_a_gpu_of_the_catalogue_the_cards_of_all_replicas_are_only_said(ask: Ask, found: Find) -> None:
    # However many one engine takes.
    request = ask(engine={"tensor_parallel_size": 2}, fleet={"replicas": 2}, device={"count": 2})
    (finding,) = found(request, "replicas-and-gpus")
    assert (finding.severity, finding.message) == ("note", "2 replicas take 4 × NVIDIA L4 24 GB")


def test_two_replicas_on_one_card_are_refused_with_the_reason(ask: Ask, found: Find, only: Only) -> None:
    here = {"seen": "this machine", "count": 1}
    finding = only(ask(fleet={"replicas": 2}, device=here), "replicas-and-gpus")
    assert finding.severity == "refusal"
    assert (
        "each take 92% of its memory, hold the same weights twice, and share its bandwidth" in finding.message
    )
    assert finding.change == {"fleet.replicas": "1"}
    assert found(ask(fleet={"replicas": 2}, device=here | {"count": 2}), "replicas-and-gpus") == ()


def test_bounds_of_replicas_are_lowered_to_what_there_is(ask: Ask, only: Only) -> None:
    here = {"seen": "this machine", "count": 2}
    wide = only(ask(fleet={"replicas": {"min": 1, "max": 4}}, device=here), "replicas-and-gpus")
    assert wide.change == {"fleet.replicas.max": "2"}
    high = only(ask(fleet={"replicas": {"min": 3, "max": 4}}, device=here), "replicas-and-gpus")
    assert high.change == {"fleet.replicas": "2"}


def test_replicas_on_the_cpu_share_it(ask: Ask, found: Find) -> None:
    here = {"seen": "this machine", "count": 1}
    assert found(ask("cpu", fleet={"replicas": 2}, device=here), "replicas-and-gpus") == ()
