"""What the rules refuse, tried on the real engine on the CPU: it does end, and with what the rule foresees."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tri_serve.checkpoint.tiny import tiny_checkpoint
from tri_serve.launch.environment import EngineEnvironment
from tri_serve.launch.inherited import inherited_environment
from tri_serve.plan.catalogue import find_gpu
from tri_serve.plan.constraints import Request, check
from tri_serve.plan.facts import PlanDevice
from tri_serve.plan.model import model_facts
from tri_serve.plan.result import Finding
from tri_serve.spec.models import Spec

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

END_SECONDS = 600
ENGINE_ENV = {
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONSAFEPATH": "1",
}

Ended = Callable[..., str]


def refusals(checkpoint: Path, **keys: object) -> dict[str, Finding]:
    """The rules that refuse to serve ``checkpoint`` on the CPU with such keys, dotted with ``__``."""
    document: dict[str, dict[str, object]] = {
        "model": {"source": str(checkpoint), "served_name": "tri-tiny"},
        "engine": {"device": "cpu"},
    }
    for dotted, value in keys.items():
        section, _, key = dotted.partition("__")
        document[section][key] = value
    spec = Spec.model_validate(document)
    request = Request(spec, model_facts(spec, None, checkpoint.parent), PlanDevice(find_gpu("cpu")))
    return {finding.rule: finding for finding in check(request) if finding.severity == "refusal"}


@pytest.fixture
def ended(engine_environment: EngineEnvironment) -> Ended:
    """Starts the engine's API server and returns all that it said; fails if it does not end with an error."""

    def run(checkpoint: Path, *flags: str) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        argv = [str(engine_environment.python), "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
        argv += [
            "--model",
            str(checkpoint),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--dtype",
            "bfloat16",
        ]
        process = subprocess.Popen(
            [*argv, "--max-model-len", "1024", *flags],
            env=inherited_environment(os.environ) | ENGINE_ENV,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        try:
            said, _ = process.communicate(timeout=END_SECONDS)
        finally:
            # The engine's own processes are in the group; it may be gone already.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.returncode != 0, said[-3000:]
        return said

    return run


def test_a_group_that_two_ranks_share_is_not_loaded(ended: Ended, tmp_path: Path) -> None:
    """The tiny checkpoint's o_proj has 4 * 160 = 640 inputs: 320 on each of two ranks, in groups of 128."""
    checkpoint = tiny_checkpoint("ct", tmp_path)
    refused = refusals(checkpoint, engine__tensor_parallel_size=2)["group-size-tensor-parallel"]
    assert "o_proj 320 = 2.5 × 128" in refused.message
    assert "verify_group_size_divides_partition" in refused.message
    said = ended(checkpoint, "--tensor-parallel-size", "2", "--distributed-executor-backend", "mp")
    assert "input_size_per_partition=320" in said
    assert "is not divisible by group_size=128" in said
    assert refused.change == {"engine.tensor_parallel_size": "1"}


def test_a_dead_flag_is_not_known(ended: Ended, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("bf16", tmp_path)
    refused = refusals(checkpoint, engine__extra_args=("--swap-space", "4"))["dead-flags"]
    assert "unrecognized arguments" in refused.message
    assert "unrecognized arguments: --swap-space" in ended(checkpoint, "--swap-space", "4")


def test_another_quantization_than_the_checkpoint_s_is_not_taken(ended: Ended, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("gptq", tmp_path)
    refused = refusals(checkpoint, model__quantization="awq")["quantization-of-the-checkpoint"]
    assert "model config (gptq) does not match" in refused.message
    said = ended(checkpoint, "--quantization", "awq")
    assert "Quantization method specified in the model config (gptq) does not match" in said
