"""The bytes that a plan counts are those of the parameters that vLLM's own classes make, on every rank."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Protocol

import pytest

from tri_serve.checkpoint.inspect import inspect_checkpoint
from tri_serve.checkpoint.sizes import write_hollow_checkpoint
from tri_serve.checkpoint.tiny import TinyFormat, tiny_checkpoint
from tri_serve.plan.facts import ModelFacts
from tri_serve.plan.weights import loaded_parameter_bytes
from tri_serve.spec.preset import load_preset

# Importing vLLM takes most of it.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).with_name("parameters_on_vllm.py")
# bitsandbytes is not in vLLM's core.
TINY: tuple[TinyFormat, ...] = ("bf16", "awq", "gptq", "ct")
PRESETS = ("tri-21b-bf16", "tri-21b-awq", "tri-21b-gptq", "tri-21b-ct")


class EngineEnvironment(Protocol):
    @property
    def python(self) -> Path: ...


def made(python: Path, folder: Path, sizes: str, paths: list[Path]) -> dict[tuple[Path, int], dict[str, Any]]:
    env = os.environ | {
        "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    argv = [str(python), str(SCRIPT), str(folder / "meeting"), sizes, *map(str, paths)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"path"')]
    return {(Path(line["path"]), line["ranks"]): line for line in lines}


def counted(path: Path, ranks: int) -> int:
    found = inspect_checkpoint(path)
    facts = ModelFacts(found.architecture, found.quantization, found.tensors, "a test", from_checkpoint=True)
    return loaded_parameter_bytes(facts, ranks)


def test_each_tiny_twin_has_the_parameters_that_are_counted(
    engine_environment: EngineEnvironment, tmp_path: Path
) -> None:
    paths = [tiny_checkpoint(fmt, tmp_path) for fmt in TINY]
    found = made(engine_environment.python, tmp_path, "1", paths)
    assert {p: line.get("bytes", line.get("refused")) for (p, _), line in found.items()} == {
        p: counted(p, 1) for p in paths
    }


def test_tri_21b_has_the_parameters_that_are_counted_on_each_of_so_many_ranks(
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
    found = made(engine_environment.python, tmp_path, "1,2,16", paths)
    refused = {
        (path.name, ranks): line["refused"] for (path, ranks), line in found.items() if "refused" in line
    }
    # 320 inputs a rank are no groups of 128.
    assert set(refused) == {(preset, 16) for preset in PRESETS[1:]}
    assert {
        (path.name, ranks): line["bytes"] - counted(path, ranks)
        for (path, ranks), line in found.items()
        if "bytes" in line
    } == {
        (path.name, ranks): 0 for path in paths for ranks in (1, 2, 16) if (path.name, ranks) not in refused
    }
