"""What a plan counts is what vLLM's own classes make: parameters to the byte, KV cache to the token."""

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import pytest

from tri_serve.checkpoint.inspect import inspect_checkpoint
from tri_serve.checkpoint.sizes import write_hollow_checkpoint
from tri_serve.checkpoint.tiny import TinyFormat, tiny_checkpoint
from tri_serve.plan.facts import Gpu, ModelFacts, PlanDevice
from tri_serve.plan.memory import plan_memory
from tri_serve.plan.weights import loaded_parameter_bytes
from tri_serve.spec.engine import EngineSpec
from tri_serve.spec.preset import load_preset

# Importing vLLM takes most of it.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).with_name("made_by_vllm.py")
# bitsandbytes is not in vLLM's core.
TINY: tuple[TinyFormat, ...] = ("bf16", "awq", "gptq", "ct")
PRESETS = ("tri-21b-bf16", "tri-21b-awq", "tri-21b-gptq", "tri-21b-ct")
CPU = PlanDevice(Gpu("cpu", "the CPU", 16 * 2**30, 2e10, 1e12, None))
GIB = 2**30

Case = dict[str, Any]


class EngineEnvironment(Protocol):
    @property
    def python(self) -> Path: ...


def case(path: Path, **changes: Any) -> Case:
    usual = {"ranks": 1, "length": 8192, "kv": "auto", "kv_bytes": 4 * GIB, "block": None}
    return {"path": str(path), **usual, **changes}


def made(environment: EngineEnvironment, folder: Path, cases: Iterable[Case]) -> list[Case]:
    """The cases with what the engine makes of them."""
    env = os.environ | {
        "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    argv = [str(environment.python), str(SCRIPT), str(folder / "meeting"), json.dumps(list(cases))]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"path"')]


def planned(case: Case) -> Case:
    """The case with what a plan makes of it."""
    found = inspect_checkpoint(Path(case["path"]))
    facts = ModelFacts(found.architecture, found.quantization, found.tensors, "a test", from_checkpoint=True)
    flags = ["--kv-cache-memory-bytes", str(case["kv_bytes"])]
    if case["block"] is not None:
        flags += ["--block-size", str(case["block"])]
    engine = EngineSpec(
        tensor_parallel_size=case["ranks"], kv_cache_dtype=case["kv"], extra_args=tuple(flags)
    )
    memory = plan_memory(facts, CPU, engine, case["length"])
    return case | {
        "bytes": loaded_parameter_bytes(facts, case["ranks"]),
        "blocks": memory.blocks,
        "tokens": memory.kv_tokens,
    }


def test_each_tiny_twin_is_planned_as_it_is_made(
    engine_environment: EngineEnvironment, tmp_path: Path
) -> None:
    cases = [case(tiny_checkpoint(fmt, tmp_path), kv_bytes=GIB) for fmt in TINY]
    found = made(engine_environment, tmp_path, cases)
    assert found == [planned(case) for case in cases]
    assert {case["tokens"] for case in found} == {419_328}


def test_kv_cache_is_counted_as_the_engine_counts_it(
    engine_environment: EngineEnvironment, tmp_path: Path
) -> None:
    path = tiny_checkpoint("bf16", tmp_path)
    cases = [
        case(path, length=1000),
        case(path, kv="fp8"),
        case(path, block=64, kv_bytes=3_000_000_001),
        case(path, ranks=2),
        case(path, ranks=4, length=4097),
    ]
    assert made(engine_environment, tmp_path, cases) == [planned(case) for case in cases]


def test_tri_21b_is_planned_as_it_is_made_on_each_of_so_many_ranks(
    engine_environment: EngineEnvironment, tmp_path: Path
) -> None:
    paths = []
    for preset in PRESETS:
        config = load_preset(preset).config
        assert config is not None
        # What the engine wants to know, and no size depends on.
        write_hollow_checkpoint(tmp_path / preset, {"hidden_act": "silu", "rms_norm_eps": 1e-5, **config})
        paths.append(tmp_path / preset)
    biased = json.loads((tmp_path / PRESETS[0] / "config.json").read_text())
    biased |= {"attention_bias": True, "mlp_bias": True, "vocab_size": 124_417, "tie_word_embeddings": True}
    write_hollow_checkpoint(tmp_path / "biased", biased)
    paths.append(tmp_path / "biased")
    # Tri-21B has 8 key-value heads: each of 16 ranks has a copy of one.
    cases = [case(path, ranks=ranks) for path in paths for ranks in (1, 2, 16)]
    found = made(engine_environment, tmp_path, cases)
    refused = {(Path(case["path"]).name, case["ranks"]) for case in found if "refused" in case}
    # 320 inputs a rank are no groups of 128.
    assert refused == {(preset, 16) for preset in PRESETS[1:]}
    assert [case for case in found if "refused" not in case] == [
        planned(case) for case in cases if (Path(case["path"]).name, case["ranks"]) not in refused
    ]
