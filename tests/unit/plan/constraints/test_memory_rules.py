"""What is free, what fits, and what the refusal names instead: with plans made up, and with real ones."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tri_serve.plan.constraints import Request
from tri_serve.plan.constraints.memory import is_certainly_too_large
from tri_serve.plan.facts import PlanDevice
from tri_serve.plan.result import Finding, MemoryPlan
from tri_serve.spec.engine import EngineSpec

Ask = Callable[..., Request]
Find = Callable[[Request, str], tuple[Finding, ...]]
Only = Callable[[Request, str], Finding]
Memories = Callable[..., MemoryPlan]

GIB = 2**30


def test_a_share_that_is_not_free_is_refused_with_the_largest_that_is(
    ask: Ask, found: Find, only: Only
) -> None:
    """18 of 24 GiB free, half a GiB for the CUDA context: 0.72 of it is 17.28, 0.73 would be 17.52."""
    card = {"total": 24 * GIB, "seen": "this machine"}
    finding = only(ask(device=card | {"free": 18 * GIB}, planned=True), "free-memory")
    assert finding.severity == "refusal"
    assert "takes 0.92 of the 24.0 GiB" in finding.message
    assert "other programs hold 6.0 GiB" in finding.message
    assert finding.change == {"engine.gpu_memory_utilization": "0.72"}
    assert found(ask(device=card, planned=True), "free-memory") == ()


def test_a_gpu_that_is_all_but_full_has_no_share_to_name(ask: Ask, only: Only) -> None:
    finding = only(ask(device={"free": GIB, "seen": "this machine"}, planned=True), "free-memory")
    assert finding.change == {}
    assert "nvidia-smi" in finding.advice


def test_the_engine_s_own_context_counts_as_taken(ask: Ask, only: Only) -> None:
    finding = only(ask(engine={"gpu_memory_utilization": 1.0}, planned=True), "free-memory")
    assert "CUDA context" in finding.message
    assert 0.9 < float(finding.change["engine.gpu_memory_utilization"]) < 1


def test_one_sequence_that_does_not_fit_gets_the_context_that_does(
    ask: Ask, found: Find, memory: Memories
) -> None:
    """3,000 tokens are 187 whole blocks of 16."""
    short = memory(kv_tokens=3_000, kv_bytes=3_000 * 204_800, full_length_sequences=3_000 / 8_192)
    (finding,) = found(replace(ask(), memory=short), "memory")
    assert finding.severity == "refusal"
    assert "8,192 tokens need 1.6 GiB of KV cache, and 0.6 GiB are left" in finding.message
    assert finding.change == {"model.max_model_len": "2992"}
    assert found(replace(ask(), memory=memory()), "memory") == ()
    assert found(ask(), "memory") == ()


def test_weights_that_do_not_fit_are_refused_with_what_is_missing(
    ask: Ask, found: Find, memory: Memories
) -> None:
    none = memory(kv_bytes=-2 * GIB, kv_tokens=0, blocks=0, full_length_sequences=0.0)
    (finding,) = found(replace(ask(quantization="none"), memory=none), "memory")
    assert "2.0 GiB are missing before there is any KV cache" in finding.message
    assert finding.change == {}
    assert "a 4-bit checkpoint of this model takes some" in finding.advice


def test_bf16_on_one_24_gb_card_is_told_of_more_cards_4_bits_and_larger_gpus(ask: Ask, only: Only) -> None:
    """38.6 GiB of weights: two cards of 22.5 GiB are too small for them, four are not."""
    finding = only(ask("l4", "none", planned=True), "memory")
    assert finding.severity == "refusal"
    assert finding.change == {"engine.tensor_parallel_size": "4"}
    assert "4-bit checkpoint" in finding.advice
    assert "would hold it" in finding.advice


def test_what_is_short_of_kv_cache_alone_is_told_of_context_fp8_share_and_more_gpus(
    ask: Ask, only: Only, memory: Memories
) -> None:
    """10 of 20 GiB taken, 4,000 tokens fit; each change brings what a made-up planner says it does."""

    def planner(device: PlanDevice, engine: EngineSpec, length: int) -> MemoryPlan:
        token = 102_400 if engine.kv_cache_dtype == "fp8" else 204_800 // engine.tensor_parallel_size
        requested = int(20 * GIB * engine.gpu_memory_utilization)
        kv_bytes = requested - 10 * GIB + 4_000 * 204_800
        tokens = kv_bytes // token // 16 * 16
        return memory(
            total=20 * GIB,
            free=20 * GIB,
            requested=requested,
            kv_bytes=kv_bytes,
            kv_bytes_per_token=token,
            kv_tokens=tokens,
            max_model_len=length,
            full_length_sequences=tokens / length,
        )

    asked = ask("l4", engine={"gpu_memory_utilization": 0.5}, spec_model={"max_model_len": 7_000})
    request = replace(asked, memory=planner(asked.device, asked.spec.engine, 7_000), planner=planner)
    finding = only(request, "memory")
    assert finding.change == {"model.max_model_len": "4000"}
    assert finding.advice == (
        "engine.kv_cache_dtype: fp8 fits, and costs some accuracy; engine.gpu_memory_utilization 0.53 fits; "
        "2 × NVIDIA L4 24 GB fit (engine.tensor_parallel_size 2)"
    )


@pytest.mark.parametrize(
    ("flags", "severity"),
    [
        (("--cpu-offload-gb=8",), "warning"),
        (("--cpu_offload_gb", "8"), "warning"),
        (("--cpu-offload=8",), "warning"),
        (("--cpu-offload-gb=0",), "refusal"),
        (("--pipeline-parallel-size=2",), "warning"),
        (("--pipeline-parallel-size", "1"), "refusal"),
        (("-pp", "2"), "warning"),
        (("-pp=1",), "refusal"),
        (("-dcp=2",), "warning"),
        (("--offload-backend=prefetch",), "warning"),
        (("--load-format=bitsandbytes",), "warning"),
        (("--load-format=safetensors",), "refusal"),
        (('--hf-overrides={"num_hidden_layers": 2}',), "warning"),
        (("--hf-overrides.num_hidden_layers=2",), "warning"),
        (("--hf-overrides=no JSON",), "warning"),
        (('--hf-overrides={"rope_parameters": {}}',), "refusal"),
        (("--seed=-pp",), "refusal"),
    ],
)
def test_what_a_flag_puts_elsewhere_is_not_refused(
    ask: Ask, found: Find, flags: tuple[str, ...], severity: str
) -> None:
    """38.6 GiB of weights on a card of 22."""
    (finding,) = found(ask("l4", "none", engine={"extra_args": flags}, planned=True), "memory")
    assert finding.severity == severity
    assert ("is not counted in" in finding.message) is (severity == "warning")


def test_a_kv_cache_of_a_given_size_is_held_against_what_is_there(ask: Ask, found: Find, only: Only) -> None:
    finding = only(ask("l4", engine={"extra_args": ("--kv-cache-memory-bytes=40G",)}, planned=True), "memory")
    assert finding.severity == "refusal"
    assert "gives the KV cache 40.0 GiB, and beside 11.8 GiB of weights" in finding.message
    assert finding.change == {"engine.extra_args": "[]"}
    # What is named as fitting fits, and a MiB more does not.
    largest = int(finding.advice.partition("--kv-cache-memory-bytes=")[2].split()[0])

    def given(nbytes: int) -> tuple[Finding, ...]:
        return found(
            ask("l4", engine={"extra_args": (f"--kv-cache-memory-bytes={nbytes}",)}, planned=True), "memory"
        )

    assert given(largest) == ()
    assert [finding.severity for finding in given(largest + 2**20)] == ["refusal"]


def test_a_given_kv_cache_is_not_blamed_alone_where_the_weights_do_not_fit_either(
    ask: Ask, only: Only
) -> None:
    finding = only(
        ask("l4", "none", engine={"extra_args": ("--kv-cache-memory-bytes=40G",)}, planned=True), "memory"
    )
    assert finding.change == {}
    assert "smaller" in finding.advice


@pytest.mark.parametrize(
    ("total", "certainly"),
    [(22, False), (15, False), (14.4, True), (12, True)],
    ids=["fits", "short", "a", "b"],
)
def test_what_fits_under_no_assumption_is_told_from_what_estimates_rule_out(
    ask: Ask, found: Find, total: float, certainly: bool
) -> None:
    """11.8 GiB of weights and 1.6 of KV cache need 13.4 of 92 %: 14.6 GiB."""
    card = {"total": int(total * GIB), "seen": "this machine"}
    request = ask("l4", device=card, planned=True)
    assert is_certainly_too_large(request) is certainly
    assert bool(found(request, "memory")) is (total < 22)


def test_layers_with_a_window_are_not_held_to_a_whole_sequence(ask: Ask) -> None:
    request = ask("l4", device={"total": int(14.4 * GIB), "seen": "this machine"}, planned=True)
    windows = replace(request.model.architecture, sliding_window=1024, sliding_layers=30)
    assert is_certainly_too_large(request)
    assert not is_certainly_too_large(replace(request, model=replace(request.model, architecture=windows)))


def test_the_cpu_is_given_a_larger_kv_cache(ask: Ask, only: Only) -> None:
    """8,192 tokens of 204,800 bytes are 1.56 GiB."""
    finding = only(ask("cpu", engine={"cpu_kv_cache_gib": 1.0}, planned=True), "memory")
    assert finding.change == {"engine.cpu_kv_cache_gib": "2.0"}


def test_a_plan_that_fits_is_not_refused(ask: Ask, found: Find) -> None:
    assert found(ask("l4", planned=True), "memory") == ()
    assert found(ask("l4", planned=True), "free-memory") == ()


@pytest.mark.parametrize(("free", "change"), [(40, None), (20, "8.0")])
def test_the_cpu_s_free_memory_holds_weights_and_kv_cache(
    ask: Ask, found: Find, memory: Memories, free: int, change: str | None
) -> None:
    """12 GiB beside a KV cache of 16: 28 in all."""
    taken = memory(kv_bytes=16 * GIB, requested=28 * GIB)
    request = ask(
        "cpu",
        engine={"cpu_kv_cache_gib": 16.0},
        device={"total": 64 * GIB, "free": free * GIB, "seen": "this machine"},
    )
    findings = found(replace(request, memory=taken), "free-memory-of-the-cpu")
    assert [finding.change for finding in findings] == (
        [{"engine.cpu_kv_cache_gib": change}] if change else []
    )
