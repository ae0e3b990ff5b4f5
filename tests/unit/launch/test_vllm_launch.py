from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tri_serve.errors import LaunchError
from tri_serve.launch.config import LaunchConfig
from tri_serve.launch.environment import EngineEnvironment
from tri_serve.launch.vllm import vllm_launch
from tri_serve.spec.models import Spec

ENVIRONMENT = EngineEnvironment(
    "vllm",
    "0.32.0",
    "cpu",
    Path("/env/bin/python"),
    ("/env/bin/vllm", "serve"),
    managed=True,
    path=Path("/env"),
)


def launch(
    device: Any = "cpu",
    *,
    cores: int = 8,
    replicas: Any = 1,
    here: int | None = None,
    gpus: Any = None,
    model: Any = None,
    **engine: Any,
) -> LaunchConfig:
    spec = Spec.model_validate(
        {
            "model": {"source": "/ckpt", "served_name": "tri"} | (model or {}),
            "engine": engine,
            "fleet": {"replicas": replicas},
        }
    )
    return vllm_launch(
        spec,
        checkpoint=Path("/ckpt"),
        environment=ENVIRONMENT,
        device=device,
        host="127.0.0.1",
        port=9001,
        api_key="sesame",
        cores=cores,
        replicas_here=here,
        gpus=gpus,
    )


def test_a_cpu_engine_gets_the_command_the_checkpoint_and_every_standing_flag() -> None:
    assert launch().argv == (
        "/env/bin/vllm",
        "serve",
        "/ckpt",
        "--served-model-name=tri",
        "--dtype=bfloat16",
        "--shutdown-timeout=30",
        "--enforce-eager",
        "--host=127.0.0.1",
        "--port=9001",
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
        "--middleware=tri_serve_engine_key.WantKey",
    )


def test_every_limit_of_the_spec_becomes_its_flag() -> None:
    argv = launch(
        "cuda",
        model={"max_model_len": 4096, "quantization": "awq", "trust_remote_code": True},
        tensor_parallel_size=2,
        kv_cache_dtype="fp8",
        max_num_seqs=64,
        max_num_batched_tokens=8192,
        gpu_memory_utilization=0.85,
    ).argv
    assert {
        "--max-model-len=4096",
        "--quantization=awq",
        "--trust-remote-code",
        "--tensor-parallel-size=2",
        "--kv-cache-dtype=fp8",
        "--max-num-seqs=64",
        "--max-num-batched-tokens=8192",
        "--gpu-memory-utilization=0.85",
    } <= set(argv)


def test_a_gpu_engine_compiles_and_gets_no_variables_of_the_cpu() -> None:
    config = launch("cuda")
    assert "--enforce-eager" not in config.argv
    assert not [name for name in config.env if "CPU" in name or name == "OMP_NUM_THREADS"]


@pytest.mark.parametrize("quantization", ["auto", "none"])
def test_no_quantization_flag_is_given_when_config_json_decides(quantization: str) -> None:
    assert not [flag for flag in launch(model={"quantization": quantization}).argv if "quantization" in flag]


def test_the_key_is_in_neither_argv_nor_env_nor_what_is_printed() -> None:
    config = launch()
    assert config.secret_env == {"VLLM_API_KEY": "sesame"}
    assert "sesame" not in repr(config)
    assert "sesame" not in " ".join(config.argv)


@pytest.mark.parametrize(
    ("cores", "replicas", "threads"), [(9, 2, "4"), (2, 4, "1"), (8, 1, "7"), (1, 1, "1")]
)
def test_replicas_share_all_cores_but_one(cores: int, replicas: int, threads: str) -> None:
    assert launch(cores=cores, replicas=replicas).env["OMP_NUM_THREADS"] == threads


def test_replicas_that_share_this_machine_count_and_those_elsewhere_do_not() -> None:
    assert launch(cores=9, replicas=4, here=2).env["OMP_NUM_THREADS"] == "4"


def test_a_growing_fleet_leaves_cores_for_all_that_it_may_become() -> None:
    assert launch(cores=9, replicas={"min": 1, "max": 4}).env["OMP_NUM_THREADS"] == "2"


def test_a_replica_sees_its_own_gpus_alone() -> None:
    assert launch("cuda", gpus=("2", "GPU-8932f937")).env["CUDA_VISIBLE_DEVICES"] == "2,GPU-8932f937"
    assert "CUDA_VISIBLE_DEVICES" not in launch("cuda").env
    # Which the spec says of the fleet, not of each replica.
    config = launch("cuda", gpus=("2",), env={"CUDA_VISIBLE_DEVICES": "2,3"})
    assert config.env["CUDA_VISIBLE_DEVICES"] == "2"


def test_an_engine_on_the_cpu_stands_back_and_one_on_a_gpu_does_not() -> None:
    assert launch().nice == 10
    assert launch(cpu_nice=0).nice == 0
    assert launch("cuda", cpu_nice=7).nice == 0


def test_cpu_threads_of_the_spec_count_before_the_share() -> None:
    assert launch(cpu_threads=3).env["OMP_NUM_THREADS"] == "3"


def test_whole_gibibytes_of_cpu_cache_are_a_variable() -> None:
    config = launch(cpu_kv_cache_gib=2)
    assert config.env["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert not [flag for flag in config.argv if "kv-cache-memory" in flag]


def test_a_fraction_of_a_gibibyte_of_cpu_cache_is_a_flag_because_the_variable_takes_integers() -> None:
    config = launch(cpu_kv_cache_gib=0.5)
    assert "--kv-cache-memory-bytes=536870912" in config.argv
    assert "VLLM_CPU_KVCACHE_SPACE" not in config.env


def test_extra_args_come_last_and_can_turn_compilation_on() -> None:
    argv = launch(extra_args=("--no-enforce-eager", "--seed", "1")).argv
    assert argv[-3:] == ("--no-enforce-eager", "--seed", "1")
    assert "--enforce-eager" not in argv


def test_the_spec_s_variables_win_over_ours() -> None:
    assert (
        launch(env={"OMP_NUM_THREADS": "7", "X": "y"}).env.items()
        >= {"OMP_NUM_THREADS": "7", "X": "y"}.items()
    )


def test_a_key_of_the_spec_s_own_is_refused() -> None:
    with pytest.raises(LaunchError, match="VLLM_API_KEY"):
        launch(env={"VLLM_API_KEY": "mine"})


def test_a_fraction_of_a_second_does_not_become_an_abort() -> None:
    assert "--shutdown-timeout=1" in launch(shutdown_timeout=0.2).argv


def test_a_version_without_graceful_shutdown_is_refused() -> None:
    with pytest.raises(LaunchError, match=r"0\.17\.1 is too old"):
        launch(version="0.17.1")


def test_an_engine_that_is_only_rendered_is_not_started() -> None:
    with pytest.raises(LaunchError, match="sglang is rendered") as caught:
        launch(kind="sglang")
    assert "render shell" in (caught.value.hint or "")


def test_the_path_to_what_wants_the_key_keeps_the_users_own() -> None:
    path = launch(env={"PYTHONPATH": "/mine"}).env["PYTHONPATH"].split(os.pathsep)
    assert path[1:] == ["/mine"]
    assert (Path(path[0]) / "tri_serve_engine_key.py").is_file()


@pytest.mark.parametrize(("version", "named"), [("0.18.0", False), ("0.24.0", True), ("0.32.0", True)])
def test_a_format_is_not_named_where_its_name_means_a_slow_kernel(version: str, named: bool) -> None:
    argv = launch("cuda", model={"quantization": "awq"}, version=version).argv
    assert ("--quantization=awq" in argv) is named
