"""The limits of an engine step: vLLM's own, and those that suit a device better."""

from collections.abc import Callable
from typing import Any

import pytest

from tri_serve.plan.batching import Limits, Recommendation, engine_limits, graph_sizes, recommended_limits
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
        ({}, {"extra_args": ("--no-enable-chunked-prefill",)}, Limits(256, 8192)),
    ],
)
def test_limits_are_the_specs_or_those_that_vllm_takes(
    round_gpu: MakeGpu, gpu: dict[str, Any], engine: dict[str, Any], limits: Limits
) -> None:
    assert engine_limits(PlanDevice(round_gpu(**gpu)), EngineSpec(**engine), 8192) == limits


def test_a_step_is_no_larger_than_all_sequences_at_full_length(round_gpu: MakeGpu) -> None:
    limits = engine_limits(PlanDevice(round_gpu()), EngineSpec(max_num_seqs=2), 512)
    assert limits == Limits(2, 1024)


def always(tokens: int) -> Callable[[Limits], int]:
    """A KV cache of so many tokens, whatever the limits take."""
    return lambda _: tokens


def less(tokens: int, each: int) -> Callable[[Limits], int]:
    """A KV cache that loses ``each`` tokens to every sequence that the engine is made for."""
    return lambda limits: tokens - each * limits.sequences


@pytest.mark.parametrize(
    ("kv_tokens", "each", "sequences"),
    [
        # Requests of 1,280 tokens, in numbers that there are CUDA graphs for.
        (0, 100, 1),
        (3_000, 100, 2),
        (36_000, 100, 24),
        (44_160, 100, 32),
        (44_159, 100, 24),
        # vLLM's own 256: all of them fit, or fewer would bring less than a tenth.
        (10_000_000, 100, 256),
        (300_000, 100, 256),
    ],
)
def test_as_many_sequences_as_the_kv_cache_holds_requests(
    model: MakeModel, round_gpu: MakeGpu, kv_tokens: int, each: int, sequences: int
) -> None:
    device = PlanDevice(round_gpu())
    found = recommended_limits(model(), device, EngineSpec(), 8192, less(kv_tokens, each))
    assert found.limits.sequences == sequences


@pytest.mark.parametrize(
    ("flops", "tokens"),
    [
        # vLLM's 2,048 take 1.7 s at 41.45 GFLOP a token and half of the operations, so it is half a second's.
        (1e14, 512),
        # 0.85 s, 0.19 s: within a factor of two of half a second.
        (2e14, 2048),
        (9e14, 2048),
        # What is the least that pays.
        (1e12, 512),
    ],
)
def test_a_step_holds_up_running_sequences_for_half_a_second_or_at_most_twice_that(
    model: MakeModel, round_gpu: MakeGpu, flops: float, tokens: int
) -> None:
    device = PlanDevice(round_gpu(flops=flops))
    assert recommended_limits(model(), device, EngineSpec(), 8192, always(36_000)).limits.tokens == tokens


def test_of_a_device_whose_speed_nobody_said_steps_are_left_alone(
    model: MakeModel, round_gpu: MakeGpu
) -> None:
    device = PlanDevice(round_gpu(flops=0.0))
    found = recommended_limits(model(), device, EngineSpec(), 8192, always(36_000))
    assert found.limits.tokens == 2048
    assert "nobody said how fast" in found.tokens_reason


def test_reasons_say_what_a_limit_brings(model: MakeModel, round_gpu: MakeGpu) -> None:
    def reasons(tokens: int, flops: float) -> Recommendation:
        device = PlanDevice(round_gpu(flops=flops))
        return recommended_limits(model(), device, EngineSpec(), 8192, less(tokens, 100))

    fast = reasons(10**7, 9e14)
    assert fast.tokens_reason.startswith("vLLM's own limit here; ")
    assert fast.sequences_reason.startswith(
        "vLLM's own limit here; KV cache of 9,974,400 tokens holds 7,792 "
    )
    assert reasons(300_000, 9e14).sequences_reason == (
        "vLLM's own limit here; 216 would make only 1% more room in the KV cache"
    )
    slow = reasons(44_160, 1e12)
    assert slow.sequences_reason == (
        "KV cache of 40,960 tokens holds 32 requests of 1,280 tokens; vLLM's own limit here, 256, would leave room "
        "for 18,560 tokens"
    )
    assert "fewer than 512 would waste" in slow.tokens_reason


def test_requests_are_no_longer_than_the_context(model: MakeModel, round_gpu: MakeGpu) -> None:
    found = recommended_limits(model(), PlanDevice(round_gpu()), EngineSpec(), 640, less(24_000, 100))
    assert found.limits.sequences == 32


def test_what_the_spec_limits_does_not_change_what_is_recommended(
    model: MakeModel, round_gpu: MakeGpu
) -> None:
    device = PlanDevice(round_gpu())
    free, bound = (
        recommended_limits(model(), device, engine, 8192, always(36_000))
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
