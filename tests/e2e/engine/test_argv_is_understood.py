"""Our flags against the pinned vLLM's own parser: it takes them all, and means what we mean."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tri_serve.launch import vllm_flags
from tri_serve.launch.environment import EngineEnvironment
from tri_serve.launch.inherited import inherited_environment
from tri_serve.launch.vllm import vllm_launch
from tri_serve.spec.models import Spec

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

# Reads argument lists as JSON, prints what the parser makes of them, and every flag that it knows.
PARSE = """
import json, sys
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser
root = FlexibleArgumentParser()
parser = ServeSubcommand().subparser_init(root.add_subparsers(dest="command"))
results = [vars(root.parse_args(["serve", *argv])) for argv in json.load(sys.stdin)]
flags = [flag for action in parser._actions for flag in action.option_strings]
print(json.dumps({"results": results, "flags": flags}, default=str))
"""

LEAST: dict[str, Any] = {"model": {"source": "/ckpt", "served_name": "tri"}}
MOST: dict[str, Any] = {
    "model": {
        "source": "/ckpt",
        "served_name": "tri",
        "quantization": "compressed-tensors",
        "max_model_len": 4096,
        "trust_remote_code": True,
    },
    "engine": {
        "dtype": "float16",
        "gpu_memory_utilization": 0.85,
        "cpu_kv_cache_gib": 0.5,
        "tensor_parallel_size": 2,
        "kv_cache_dtype": "fp8_e4m3",
        "max_num_seqs": 64,
        "max_num_batched_tokens": 8192,
        "shutdown_timeout": 12.5,
        "extra_args": ("--seed=7",),
    },
}


@pytest.fixture(scope="module")
def parsed(engine_environment: EngineEnvironment) -> dict[str, Any]:
    arguments = []
    for spec, device in ((LEAST, "cpu"), (MOST, "cpu"), (LEAST, "cuda"), (MOST, "cuda")):
        config = vllm_launch(
            Spec.model_validate(spec),
            checkpoint=Path("/ckpt"),
            environment=engine_environment,
            device="cpu" if device == "cpu" else "cuda",
            host="127.0.0.1",
            port=9001,
            api_key="sesame",
            cores=2,
        )
        arguments.append(config.argv[len(engine_environment.command) :])
    done = subprocess.run(
        [str(engine_environment.python), "-c", PARSE],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        env=inherited_environment(os.environ) | {"PYTHONSAFEPATH": "1", "VLLM_TARGET_DEVICE": "cpu"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("index", range(4))
def test_what_every_engine_is_told_arrives(parsed: dict[str, Any], index: int) -> None:
    result = parsed["results"][index]
    assert result["model_tag"] == "/ckpt"
    assert result["served_model_name"] == ["tri"]
    assert (result["host"], result["port"]) == ("127.0.0.1", 9001)
    assert result["enable_prompt_tokens_details"] is True
    assert result["disable_uvicorn_access_log"] is True
    assert not result["api_key"]


@pytest.mark.parametrize("index", [1, 3])
def test_every_limit_of_the_spec_arrives(parsed: dict[str, Any], index: int) -> None:
    result = parsed["results"][index]
    expected = {
        "quantization": "compressed-tensors",
        "max_model_len": 4096,
        "trust_remote_code": True,
        "dtype": "float16",
        "tensor_parallel_size": 2,
        "kv_cache_dtype": "fp8_e4m3",
        "max_num_seqs": 64,
        "max_num_batched_tokens": 8192,
        "shutdown_timeout": 13,
        "seed": 7,
    }
    assert {key: result[key] for key in expected} == expected


def test_each_device_gets_its_memory_and_compilation(parsed: dict[str, Any]) -> None:
    cpu, most_cpu, cuda, most_cuda = parsed["results"]
    assert [result["enforce_eager"] for result in (cpu, most_cpu, cuda, most_cuda)] == [
        True,
        True,
        False,
        False,
    ]
    assert most_cpu["kv_cache_memory_bytes"] == 2**29
    assert (cuda["gpu_memory_utilization"], most_cuda["gpu_memory_utilization"]) == (0.92, 0.85)


def test_flags_that_we_say_are_ours_are_vllm_s_flags(parsed: dict[str, Any]) -> None:
    assert {*vllm_flags.SPEC_KEYS, *vllm_flags.OURS} - set(parsed["flags"]) == set()


def test_flags_that_we_say_are_gone_are_gone(parsed: dict[str, Any]) -> None:
    assert set(vllm_flags.GONE) & set(parsed["flags"]) == set()


def test_no_flag_of_vllm_is_taken_for_an_abbreviation_of_ours(parsed: dict[str, Any]) -> None:
    refused = set(vllm_flags.SPEC_KEYS) | set(vllm_flags.OURS) | set(vllm_flags.GONE)
    for flag in sorted(set(parsed["flags"]) - refused - set(vllm_flags.SHORT)):
        vllm_flags.check_extra_args((flag,))
