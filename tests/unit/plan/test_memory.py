"""What lies in a device's memory: exact on the CPU backend, and as vLLM decides it on a GPU."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tri_serve.checkpoint.inspect import inspect_checkpoint
from tri_serve.checkpoint.quantization import QuantizationFacts
from tri_serve.checkpoint.tiny import TINY_FORMATS, tiny_checkpoint
from tri_serve.checkpoint.tiny.derive import TinyFormat
from tri_serve.plan.facts import Gpu, ModelFacts, PlanDevice
from tri_serve.plan.memory import DRIVER_BYTES, plan_memory
from tri_serve.plan.result import MemoryPlan
from tri_serve.plan.weights import rank_weights
from tri_serve.spec.engine import EngineSpec

MakeModel = Callable[..., ModelFacts]

GIB = 2**30
CPU = PlanDevice(Gpu("cpu", "this machine's CPU", 16 * GIB, 2e10, 1e12, None))


@pytest.fixture
def card(round_gpu: Callable[..., Gpu]) -> PlanDevice:
    """A GPU of 24 GB that is in this machine and idle."""
    return PlanDevice(round_gpu(), seen="this machine")


def tiny(fmt: TinyFormat, cache: Path) -> ModelFacts:
    found = inspect_checkpoint(tiny_checkpoint(fmt, cache))
    return ModelFacts(found.architecture, found.quantization, found.tensors, "a test", from_checkpoint=True)


def taken(plan: MemoryPlan, name: str) -> int:
    return next(term.nbytes for term in (*plan.terms, *plan.outside) if term.name == name)


@pytest.mark.parametrize("fmt", TINY_FORMATS)
def test_the_tiny_checkpoint_has_the_tokens_that_the_engine_prints(fmt: TinyFormat, tmp_path: Path) -> None:
    # vLLM 0.32 on the CPU: "CPU KV cache size: 419,328 tokens".
    plan = plan_memory(tiny(fmt, tmp_path), CPU, EngineSpec(cpu_kv_cache_gib=1), 8192)
    assert plan.kv_tokens == 419_328
    assert (plan.block_tokens, plan.blocks, plan.kv_bytes_per_token) == (128, 3276, 2560)
    assert f"{plan.full_length_sequences:.2f}" == "51.19"


def test_a_length_that_is_no_multiple_of_a_block_wastes_the_rest_of_its_last_block(tmp_path: Path) -> None:
    plan = plan_memory(tiny("bf16", tmp_path), CPU, EngineSpec(), 1000)
    # Eight blocks each: the engine prints int(3276 / 8 * 1000).
    assert plan.kv_tokens == 409_500


@pytest.mark.parametrize(
    ("engine", "blocks"),
    [
        ({"cpu_kv_cache_gib": 0.5}, 1638),
        ({"extra_args": ("--kv-cache-memory-bytes", "536870912")}, 1638),
        ({"extra_args": ("--kv-cache-memory-bytes=512M",)}, 1638),
        ({"kv_cache_dtype": "fp8"}, 6553),
        ({"dtype": "float32"}, 1638),
        ({"extra_args": ("--block-size", "64")}, 6553),
    ],
)
def test_what_the_engine_is_told_changes_its_blocks(
    tmp_path: Path, engine: dict[str, Any], blocks: int
) -> None:
    assert plan_memory(tiny("bf16", tmp_path), CPU, EngineSpec(**engine), 8192).blocks == blocks


def test_on_the_cpu_weights_engine_and_kv_cache_are_taken(tmp_path: Path) -> None:
    plan = plan_memory(tiny("awq", tmp_path), CPU, EngineSpec(), 8192)
    assert [term.name for term in plan.terms] == ["weights", "engine", "KV cache"]
    assert plan.requested == sum(term.nbytes for term in plan.terms)
    assert plan.starts
    assert plan.fits


def test_terms_add_up_to_the_engines_share(model: MakeModel, card: PlanDevice) -> None:
    plan = plan_memory(model(), card, EngineSpec(), 8192)
    assert plan.requested == math.ceil(24_000_000_000 * 0.92)
    assert sum(term.nbytes for term in plan.terms) == plan.requested
    assert plan.terms[-1].name == "KV cache"
    assert plan.terms[-1].nbytes == plan.kv_bytes
    assert plan.requested + sum(term.nbytes for term in plan.outside) == plan.total
    assert taken(plan, "weights") == rank_weights(model(), compute_capability=(8, 9)).total == 12_654_315_520


def test_kv_cache_is_counted_in_whole_blocks_of_16_tokens(model: MakeModel, card: PlanDevice) -> None:
    plan = plan_memory(model(), card, EngineSpec(), 8192)
    assert plan.kv_bytes_per_token == 204_800
    assert plan.blocks == plan.kv_bytes // 3_276_800
    assert plan.kv_tokens == plan.blocks * 16
    assert plan.full_length_sequences == plan.blocks / 512


def test_fp8_halves_a_token_and_doubles_the_tokens(model: MakeModel, card: PlanDevice) -> None:
    short = plan_memory(model(), card, EngineSpec(kv_cache_dtype="fp8_e5m2"), 8192)
    assert (short.kv_dtype, short.kv_bytes_per_token) == ("fp8", 102_400)
    assert short.blocks == short.kv_bytes // 1_638_400


@pytest.mark.parametrize(("ranks", "token"), [(2, 102_400), (4, 51_200), (8, 25_600), (16, 25_600)])
def test_ranks_share_keys_and_values_until_each_has_one_head(
    model: MakeModel, card: PlanDevice, ranks: int, token: int
) -> None:
    plan = plan_memory(model(), card, EngineSpec(tensor_parallel_size=ranks), 8192)
    assert plan.kv_bytes_per_token == token


def test_a_model_that_is_too_large_says_by_how_much(model: MakeModel, card: PlanDevice) -> None:
    plan = plan_memory(model(QuantizationFacts()), card, EngineSpec(), 8192)
    assert not plan.fits
    assert plan.kv_bytes < -19 * 10**9
    assert (plan.blocks, plan.kv_tokens) == (0, 0)


def test_an_engine_needs_its_share_free_beside_its_context(model: MakeModel, round_gpu: Any) -> None:
    def plan(free: int) -> MemoryPlan:
        device = PlanDevice(round_gpu(), free=free, seen="this machine")
        return plan_memory(model(), device, EngineSpec(), 8192)

    needed = math.ceil(24_000_000_000 * 0.92) + 512 * 2**20
    assert plan(needed).starts
    assert not plan(needed - 1).starts
    assert plan(needed - 1).startable == math.ceil(24_000_000_000 * 0.92) - 1


def test_of_a_board_that_is_not_here_the_drivers_part_is_taken_off(
    model: MakeModel, round_gpu: Any, card: PlanDevice
) -> None:
    plan = plan_memory(model(), PlanDevice(round_gpu()), EngineSpec(), 8192)
    assert taken(plan, "driver") == DRIVER_BYTES
    assert plan.usable == 24_000_000_000 - DRIVER_BYTES
    assert plan.requested == math.ceil(plan.usable * 0.92)
    assert "driver" not in [term.name for term in plan_memory(model(), card, EngineSpec(), 8192).outside]


def test_activations_are_the_larger_of_mlp_and_sampling(model: MakeModel, card: PlanDevice) -> None:
    few = plan_memory(model(), card, EngineSpec(max_num_seqs=1, max_num_batched_tokens=4096), 8192)
    assert taken(few, "activations") == 4096 * (4 * 5120 + 3 * 27392) * 2
    many = plan_memory(model(), card, EngineSpec(max_num_seqs=256), 8192)
    assert taken(many, "activations") == 4 * 2048 * 5120 * 2 + 256 * 124_416 * 16


def test_eager_engines_have_no_graphs(model: MakeModel, card: PlanDevice) -> None:
    plain, eager = (
        plan_memory(model(), card, EngineSpec(extra_args=args), 8192) for args in ((), ("--enforce-eager",))
    )
    assert eager.kv_bytes - plain.kv_bytes == taken(plain, "CUDA graphs") > 0


def test_graphs_lie_outside_of_the_share_before_vllm_counted_them(model: MakeModel, card: PlanDevice) -> None:
    old = plan_memory(model(), card, EngineSpec(version="0.20.0"), 8192)
    new = plan_memory(model(), card, EngineSpec(version="0.21.0"), 8192)
    graphs = taken(new, "CUDA graphs")
    assert old.kv_bytes - new.kv_bytes == graphs
    assert taken(new, "headroom") - taken(old, "headroom") == graphs


def test_kv_cache_of_a_given_size_does_not_ask_for_the_share(model: MakeModel, card: PlanDevice) -> None:
    engine = EngineSpec(extra_args=("--kv-cache-memory-bytes", "8G"))
    plan = plan_memory(model(), card, engine, 8192)
    assert plan.kv_bytes == 8 * GIB
    assert sum(term.nbytes for term in (*plan.terms, *plan.outside)) == plan.total


def test_each_term_says_its_formula_and_whether_it_is_a_prior(model: MakeModel, card: PlanDevice) -> None:
    plan = plan_memory(model(), card, EngineSpec(), 8192)
    priors = {term.name for term in (*plan.terms, *plan.outside) if term.source.startswith("prior")}
    assert priors == {"activations", "workspaces", "CUDA graphs", "CUDA context"}
    assert all(term.formula for term in (*plan.terms, *plan.outside))
    assert "4 * 2,048 tokens * 5,120 * 2" in plan.terms[1].formula
