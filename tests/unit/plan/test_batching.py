"""The limits of an engine step: vLLM's own, and those that suit a device better."""

from collections.abc import Callable
from typing import Any

import pytest

from tri_serve.plan.batching import Limits, engine_limits, graph_sizes, recommended_limits
from tri_serve.plan.facts import Gpu, ModelFacts, PlanDevice
from tri_serve.spec.engine import EngineSpec

MakeModel = Callable[..., ModelFacts]
MakeGpu = Callable[..., Gpu]

GIB = 2**30


@pytest.mark.parametrize(
    ("gpu", "engine", "limits"),
    [
        ({"memory": 24 * GIB}, {}, Limits(256, 2048)),
        ({"memory": 80 * GIB}, {}, Limits(1024, 8192)),
        ({"memory": 80 * GIB, "title": "NVIDIA A100 80 GB"}, {}, Limits(256, 2048)),
        ({"memory": 180 * GIB}, {}, Limits(1024, 16384)),
        ({"compute_capability": None}, {}, Limits(128, 2048)),
        ({"compute_capability": None}, {"tensor_parallel_size": 2}, Limits(256, 4096)),
        ({}, {"max_num_seqs": 512}, Limits(512, 2048)),
        ({}, {"max_num_batched_tokens": 128}, Limits(128, 128)),
        ({}, {"max_num_seqs": 4, "max_num_batched_tokens": 512}, Limits(4, 512)),
    ],
)
def test_limits_are_the_specs_or_those_that_vllm_takes(
    round_gpu: MakeGpu, gpu: dict[str, Any], engine: dict[str, Any], limits: Limits
) -> None:
    assert engine_limits(PlanDevice(round_gpu(**gpu)), EngineSpec(**engine), 8192) == limits


def test_a_step_is_no_larger_than_all_sequences_at_full_length(round_gpu: MakeGpu) -> None:
    limits = engine_limits(PlanDevice(round_gpu()), EngineSpec(max_num_seqs=2), 512)
    assert limits == Limits(2, 1024)


@pytest.mark.parametrize(
    ("kv_tokens", "sequences"),
    [(0, 1), (2047, 1), (36_000, 16), (66_000, 32), (10_000_000, 256)],
)
def test_as_many_sequences_as_fit_at_a_quarter_of_full_length(
    model: MakeModel, round_gpu: MakeGpu, kv_tokens: int, sequences: int
) -> None:
    found = recommended_limits(model(), PlanDevice(round_gpu()), EngineSpec(), 8192, kv_tokens)
    assert found.limits.sequences == sequences
    assert f"{kv_tokens:,} tokens of KV cache" in found.sequences_reason


@pytest.mark.parametrize(
    ("flops", "tokens"),
    [
        # Half a second of half the operations, at 41.45 GFLOP a token, down to a power of two.
        (1e14, 512),
        (2e14, 1024),
        (4e14, 2048),
        # vLLM's own limit, and what is the least that pays.
        (9e14, 2048),
        (1e12, 512),
    ],
)
def test_a_step_holds_up_running_sequences_for_half_a_second_at_most(
    model: MakeModel, round_gpu: MakeGpu, flops: float, tokens: int
) -> None:
    found = recommended_limits(model(), PlanDevice(round_gpu(flops=flops)), EngineSpec(), 8192, 36_000)
    assert found.limits.tokens == tokens


def test_reasons_say_where_a_limit_is_vllms_own_or_the_least_that_pays(
    model: MakeModel, round_gpu: MakeGpu
) -> None:
    fast = recommended_limits(model(), PlanDevice(round_gpu(flops=9e14)), EngineSpec(), 8192, 10**7)
    assert fast.tokens_reason.startswith("vLLM's own limit")
    assert fast.sequences_reason.startswith("vLLM's own limit")
    slow = recommended_limits(model(), PlanDevice(round_gpu(flops=1e12)), EngineSpec(), 8192, 36_000)
    assert "fewer than 512 would waste" in slow.tokens_reason


def test_what_the_spec_limits_does_not_change_what_is_recommended(
    model: MakeModel, round_gpu: MakeGpu
) -> None:
    device = PlanDevice(round_gpu())
    free, bound = (
        recommended_limits(model(), device, engine, 8192, 36_000)
        for engine in (EngineSpec(), EngineSpec(max_num_seqs=2, max_num_batched_tokens=8192))
    )
    assert free == bound


@pytest.mark.parametrize(
    ("limits", "capability", "count", "largest"),
    [
        # 1, 2, 4; 8 to 248 by 8; 256 to 512 by 16: 3 + 31 + 17.
        (Limits(256, 2048), (8, 9), 51, 512),
        (Limits(1024, 8192), (9, 0), 51, 512),
        (Limits(1024, 8192), (10, 0), 83, 1024),
        (Limits(1, 2048), (8, 9), 2, 2),
        (Limits(100, 2048), (8, 9), 29, 200),
        (Limits(256, 100), (8, 9), 16, 100),
    ],
)
def test_graphs_are_captured_for_the_sizes_that_vllm_takes(
    limits: Limits, capability: tuple[int, int], count: int, largest: int
) -> None:
    sizes = graph_sizes(limits, capability)
    assert (len(sizes), sizes[-1]) == (count, largest)
