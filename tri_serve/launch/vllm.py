"""The launch config of one vLLM engine."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from tri_serve.errors import LaunchError
from tri_serve.launch.config import LaunchConfig
from tri_serve.launch.device import Device
from tri_serve.launch.environment import EngineEnvironment
from tri_serve.launch.vllm_flags import check_extra_args, has_flag
from tri_serve.spec.engine import EngineSpec
from tri_serve.spec.models import Spec

OLDEST_VERSION = (0, 18)
"""--shutdown-timeout came with 0.18; without it every stop cuts off what is running."""

KEEP_ALIVE_SECONDS = 120
"""How long an engine keeps an idle connection open. vLLM's 5 s would close connections under the gateway's
hands: its pool gives them up after at most 60 s."""


_INSIDE = Path(__file__).parent / "inside"
_KEY_MIDDLEWARE = "tri_serve_engine_key.WantKey"
"""In that folder, which the engine's Python is to look through."""


def vllm_launch(
    spec: Spec,
    *,
    checkpoint: Path,
    environment: EngineEnvironment,
    device: Device,
    host: str,
    port: int,
    api_key: str | None,
    cores: int,
    replicas_here: int | None = None,
    gpus: Sequence[str] | None = None,
) -> LaunchConfig:
    """What to run for one replica of ``spec``.

    ``checkpoint`` is a directory. ``cores`` are the machine's; on the CPU the replicas share all but one,
    which is left to the gateway and the API servers: OpenMP's threads wait for each other spinning, and one
    that has to share its core holds up all (seen: 25 instead of 470 tokens/s). ``replicas_here``: how many
    share this machine; None: as many as the fleet may come to have. ``gpus``: the GPUs of this replica, as
    CUDA_VISIBLE_DEVICES names them; None leaves that variable as it is. ``api_key`` goes into ``secret_env``, and
    with one every route that does work wants it; vLLM by itself leaves some open.
    Raises LaunchError for what vLLM would not take.
    """
    model, engine = spec.model, spec.engine
    _check_version(engine.version)
    check_extra_args(engine.extra_args)
    if "VLLM_API_KEY" in engine.env:
        raise LaunchError(
            "engine.env: VLLM_API_KEY cannot be given: each fleet makes its engines' key itself",
            hint="gateway.keys_file holds the keys that clients present",
        )
    argv = [
        *environment.command,
        str(checkpoint),
        f"--served-model-name={model.served_name}",
        f"--dtype={engine.dtype}",
        f"--host={host}",
        f"--port={port}",
        # vLLM takes whole seconds, and 0 would abort what is running.
        f"--shutdown-timeout={math.ceil(engine.shutdown_timeout)}",
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
    ]
    if api_key is not None:
        argv.append(f"--middleware={_KEY_MIDDLEWARE}")
    if model.max_model_len is not None:
        argv.append(f"--max-model-len={model.max_model_len}")
    if model.quantization not in {"auto", "none"}:
        argv.append(f"--quantization={model.quantization}")
    if model.trust_remote_code:
        argv.append("--trust-remote-code")
    if engine.tensor_parallel_size > 1:
        argv.append(f"--tensor-parallel-size={engine.tensor_parallel_size}")
    if engine.kv_cache_dtype != "auto":
        argv.append(f"--kv-cache-dtype={engine.kv_cache_dtype}")
    if engine.max_num_seqs is not None:
        argv.append(f"--max-num-seqs={engine.max_num_seqs}")
    if engine.max_num_batched_tokens is not None:
        argv.append(f"--max-num-batched-tokens={engine.max_num_batched_tokens}")
    env = _common_env(environment)
    if device == "cpu":
        if not has_flag(engine.extra_args, "--enforce-eager", "--no-enforce-eager"):
            # Compiling takes longer than a small model saves by it on a CPU.
            argv.append("--enforce-eager")
        argv += _cpu_cache_flags(engine)
        env |= _cpu_env(engine, (cores - 1) // (replicas_here or spec.fleet.most_replicas))
    else:
        argv.append(f"--gpu-memory-utilization={engine.gpu_memory_utilization:g}")
    # The spec's own variables win, but for this one: it names the GPUs of the fleet, not those of one replica.
    assigned = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    if api_key is not None:
        places = (str(_INSIDE), *filter(None, [engine.env.get("PYTHONPATH")]))
        assigned["PYTHONPATH"] = os.pathsep.join(places)
    return LaunchConfig(
        argv=(*argv, *engine.extra_args),
        env=env | engine.env | assigned,
        secret_env={} if api_key is None else {"VLLM_API_KEY": api_key},
        host=host,
        port=port,
    )


def _check_version(version: str) -> None:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise LaunchError(
            f"engine.version: vLLM {version} is too old; it has no --shutdown-timeout, which came with {oldest}",
            hint=f"set engine.version to {oldest} or later",
        )


def _common_env(environment: EngineEnvironment) -> dict[str, str]:
    env = {
        # A folder called vllm in the working directory must not shadow the real one.
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_SECONDS),
        # The checkpoint is a directory: whatever would still ask a hub is a mistake, found now and not when
        # the network is away.
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    if environment.managed:
        env["PYTHONNOUSERSITE"] = "1"
    return env


def _cpu_cache_flags(engine: EngineSpec) -> list[str]:
    """The KV cache's size as a flag, where VLLM_CPU_KVCACHE_SPACE cannot say it: it takes whole GiB only."""
    if engine.cpu_kv_cache_gib.is_integer():
        return []
    return [f"--kv-cache-memory-bytes={int(engine.cpu_kv_cache_gib * 2**30)}"]


def _cpu_env(engine: EngineSpec, cores: int) -> dict[str, str]:
    env = {
        # An official wheel finds this out by its version, other builds by this.
        "VLLM_TARGET_DEVICE": "cpu",
        # Binding threads to cores would put every replica on the same ones.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(engine.cpu_threads or max(1, cores)),
    }
    if engine.cpu_kv_cache_gib.is_integer():
        env["VLLM_CPU_KVCACHE_SPACE"] = str(int(engine.cpu_kv_cache_gib))
    return env
