"""What the rules say that vLLM chooses on each kind of GPU, against vLLM's own code; no GPU needed."""

import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tri_serve.checkpoint.architecture import architecture_from
from tri_serve.checkpoint.quantization import QuantizationFacts
from tri_serve.launch.environment import EngineEnvironment
from tri_serve.launch.inherited import inherited_environment
from tri_serve.plan.constraints import Request
from tri_serve.plan.constraints.attention import attention_backend
from tri_serve.plan.constraints.kernels import SLOW, layer_kernel
from tri_serve.plan.constraints.shapes import rank_layers
from tri_serve.plan.facts import Gpu, ModelFacts, PlanDevice
from tri_serve.spec.engine import EngineSpec
from tri_serve.spec.models import Spec
from tri_serve.spec.preset import load_preset

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
# Sizes that FlashInfer, which a CPU environment has not, does not take on any device.
HEADS = (80, 96, 160, 192)
FALLBACKS = ("ExllamaLinearKernel", "TritonW4A16LinearKernel", "HummingLinearKernel")
DTYPES = ("auto", "fp8", "fp8_e5m2")


def tri_21b(**changes: Any) -> ModelFacts:
    config = load_preset("tri-21b-ct").config
    assert config is not None
    architecture = architecture_from({**config, **changes}, Path("config.json"))
    return ModelFacts(architecture, QuantizationFacts(), {}, origin="a test", from_checkpoint=False)


def layers() -> list[tuple[tuple[int, int], Any, QuantizationFacts]]:
    """Each layer that holds whole groups, for each device, number of ranks and group size."""
    found = []
    for capability, ranks, group, symmetric in itertools.product(
        CAPABILITIES, (1, 2, 4, 8), (None, 32, 64, 128), (True, False)
    ):
        facts = QuantizationFacts("compressed-tensors", 4, group, symmetric=symmetric)
        for layer in rank_layers(tri_21b().architecture, ranks):
            if group is None or layer.inputs % group == 0:
                found.append((capability, layer, facts))
    return found


def heads() -> list[tuple[tuple[int, int], int, str]]:
    return list(itertools.product(CAPABILITIES, HEADS, DTYPES))


@pytest.fixture(scope="module")
def answers(engine_environment: EngineEnvironment) -> Any:
    questions = {
        "kernels": [
            {
                "capability": capability,
                "inputs": layer.inputs,
                "full_inputs": layer.full_inputs,
                "outputs": layer.outputs,
                "group": facts.group_size,
                "zero_points": not facts.symmetric,
            }
            for capability, layer, facts in layers()
        ],
        "attention": [
            {"capability": capability, "head": head, "dtype": dtype} for capability, head, dtype in heads()
        ],
    }
    done = subprocess.run(
        [str(engine_environment.python), str(Path(__file__).parent / "choices_of_vllm.py")],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        env=inherited_environment(os.environ) | {"VLLM_TARGET_DEVICE": "cpu"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_kernel_of_every_layer_is_the_one_that_vllm_chooses(answers: Any) -> None:
    version = (0, 32)
    wrong = []
    for (capability, layer, facts), theirs in zip(layers(), answers["kernels"], strict=True):
        ours = layer_kernel(layer, facts, capability, version)
        said = theirs in FALLBACKS if ours == SLOW else theirs == (ours and f"{ours}LinearKernel")
        if not said:
            wrong.append((capability, layer, facts.group_size, ours, theirs))
    assert wrong == []
    assert {"MarlinLinearKernel", "MacheteLinearKernel", "HummingLinearKernel"} <= set(answers["kernels"])


def test_the_attention_backend_is_the_one_that_vllm_chooses(answers: Any) -> None:
    wrong = []
    for (capability, head, dtype), theirs in zip(heads(), answers["attention"], strict=True):
        spec = Spec.model_validate(
            {
                "model": {"source": "tri", "served_name": "tri"},
                "engine": {"kv_cache_dtype": dtype, "version": EngineSpec().version},
            }
        )
        gpu = Gpu("made-up", "made up", 2**35, 1e12, 1e14, capability)
        choice = attention_backend(Request(spec, tri_21b(head_dim=head), PlanDevice(gpu)))
        # Before 8.9 Triton is chosen for fp8, and refuses it when the layers are made.
        late = dtype != "auto" and capability < (8, 9) and theirs[:1] == ["TRITON_ATTN"]
        if choice.backend != (None if late else next(iter(theirs), None)):
            wrong.append((capability, head, dtype, choice, theirs))
    assert wrong == []
