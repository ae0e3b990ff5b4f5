"""Our flags against the pinned vLLM's own parser: it takes them all, and means what we mean."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tri_serve.launch import vllm_flags
from tri_serve.launch.config import LaunchConfig
from tri_serve.launch.environment import EngineEnvironment
from tri_serve.launch.flags.extract import table_of_folder
from tri_serve.launch.flags.table import UNKNOWN, Flag, FlagTable
from tri_serve.launch.inherited import inherited_environment
from tri_serve.launch.standalone import standalone_launch
from tri_serve.launch.version_gates import version_gate
from tri_serve.launch.vllm import vllm_launch
from tri_serve.spec.load import load_spec
from tri_serve.spec.models import Spec
from tri_serve.spec.preset import load_preset, preset_names

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

# Reads argument lists as JSON, prints what the parser makes of them, and every flag that it knows.
PARSE = """
import argparse, json, sys
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser

def names(kind):
    found = {getattr(kind, "__name__", "")}
    for cell in getattr(kind, "__closure__", None) or ():
        if callable(cell.cell_contents):
            found |= names(cell.cell_contents)
    return found

def kind(action):
    if isinstance(action, argparse.BooleanOptionalAction):
        return "bool"
    if action.nargs == 0:
        return "switch"
    found = names(action.type)
    if found & {"loads", "parse_dataclass"}:
        return "json"
    if found & {"int", "human_readable_int", "human_readable_int_or_auto"}:
        return "int"
    return "float" if "float" in found else "text"

def plain(value):
    return value if isinstance(value, (int, float, str, bool, type(None))) else "?"

root = FlexibleArgumentParser()
parser = ServeSubcommand().subparser_init(root.add_subparsers(dest="command"))
results = [vars(root.parse_args(["serve", *argv])) for argv in json.load(sys.stdin)]
actions = [
    {
        "spellings": sorted(action.option_strings),
        "kind": kind(action),
        "choices": sorted(str(choice) for choice in action.choices or () if choice not in (None, "None")),
        "many": action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction),
        "optional": action.nargs == "?",
        "default": plain(action.default),
    }
    for action in parser._actions
    if action.option_strings and "--help" not in action.option_strings
]
print(json.dumps({"results": results, "actions": actions}, default=str))
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
VARIANTS = [(name, gpu) for name in preset_names() for gpu in (None, *load_preset(name).gpus)]
"""Every preset, and every kind of GPU for which it says something of its own."""


def fleet_launch(spec: Spec, device: str, environment: EngineEnvironment) -> LaunchConfig:
    return vllm_launch(
        spec,
        checkpoint=Path("/ckpt"),
        environment=environment,
        device="cpu" if device == "cpu" else "cuda",
        host="127.0.0.1",
        port=9001,
        api_key="sesame",
        cores=2,
    )


def preset_spec(name: str, gpu: str | None) -> Spec:
    return load_spec(name, [], {}, ["model.source=/ckpt"], gpu=gpu).spec


@pytest.fixture(scope="module")
def parsed(engine_environment: EngineEnvironment) -> dict[str, Any]:
    arguments = []
    for data, device in ((LEAST, "cpu"), (MOST, "cpu"), (LEAST, "cuda"), (MOST, "cuda")):
        config = fleet_launch(Spec.model_validate(data), device, engine_environment)
        arguments.append(config.argv[len(engine_environment.command) :])
    for name, gpu in VARIANTS:
        spec = preset_spec(name, gpu)
        arguments.append(
            fleet_launch(spec, "cuda", engine_environment).argv[len(engine_environment.command) :]
        )
        arguments.append(standalone_launch(spec).argv[2:])
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


@pytest.fixture(scope="module")
def table(engine_environment: EngineEnvironment) -> FlagTable:
    """The table read anew from the source of the engine that is installed."""
    assert engine_environment.path is not None
    folder = next(engine_environment.path.glob("lib/python*/site-packages"))
    return table_of_folder("vllm", folder, engine_environment.version)


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
    cpu, most_cpu, cuda, most_cuda = parsed["results"][:4]
    assert [result["enforce_eager"] for result in (cpu, most_cpu, cuda, most_cuda)] == [
        True,
        True,
        False,
        False,
    ]
    assert most_cpu["kv_cache_memory_bytes"] == 2**29
    assert (cuda["gpu_memory_utilization"], most_cuda["gpu_memory_utilization"]) == (0.92, 0.85)


@pytest.mark.parametrize("index", range(len(VARIANTS)), ids=[f"{name} {gpu or ''}" for name, gpu in VARIANTS])
def test_every_preset_is_understood_in_a_fleet_and_on_its_own(parsed: dict[str, Any], index: int) -> None:
    spec = preset_spec(*VARIANTS[index])
    in_fleet, alone = parsed["results"][4 + 2 * index : 6 + 2 * index]
    quantization = None if spec.model.quantization in {"auto", "none"} else spec.model.quantization
    for result in (in_fleet, alone):
        assert result["model_tag"] == "/ckpt"
        assert result["served_model_name"] == [spec.model.served_name]
        assert result["dtype"] == spec.engine.dtype
        assert result["max_model_len"] == spec.model.max_model_len
        assert result["quantization"] == quantization
        assert result["tensor_parallel_size"] == spec.engine.tensor_parallel_size
        assert result["kv_cache_dtype"] == spec.engine.kv_cache_dtype
        assert result["gpu_memory_utilization"] == spec.engine.gpu_memory_utilization
        assert result["max_num_seqs"] == spec.engine.max_num_seqs
        assert result["shutdown_timeout"] == spec.engine.shutdown_timeout
    assert (alone["host"], alone["port"]) == ("127.0.0.1", 8000)


def test_the_source_has_the_flags_of_the_parser_with_what_they_take(
    parsed: dict[str, Any], table: FlagTable
) -> None:
    by_spellings = {tuple(sorted(flag.spellings)): flag for flag in table.flags}
    actions = {tuple(action["spellings"]): action for action in parsed["actions"]}
    assert set(by_spellings) == set(actions)
    differing = [name for name in actions if not _agrees(by_spellings[name], actions[name])]
    # Which processors it offers depends on the device that vLLM runs on, which no source says.
    assert differing == [("--mm-processor-device",)]


def _agrees(flag: Flag, action: dict[str, Any]) -> bool:
    known = flag.default is not UNKNOWN and not isinstance(flag.default, list)
    return (
        (flag.kind, list(flag.choices), flag.many, flag.optional)
        == (action["kind"], action["choices"], action["many"], action["optional"])
    ) and (not known or flag.default == action["default"])


def test_the_table_that_ships_is_that_of_the_engine_that_is_installed(table: FlagTable) -> None:
    shipped = version_gate("vllm", table.version).table
    assert shipped.by_spelling == table.by_spelling


def test_no_flag_of_vllm_is_taken_for_an_abbreviation_of_ours(
    parsed: dict[str, Any], table: FlagTable
) -> None:
    refused = set(vllm_flags.SPEC_KEYS) | set(vllm_flags.OURS)
    gate = version_gate("vllm", table.version)
    for action in parsed["actions"]:
        if refused.isdisjoint(action["spellings"]):
            for spelling in action["spellings"]:
                vllm_flags.check_extra_args((spelling,), gate)
