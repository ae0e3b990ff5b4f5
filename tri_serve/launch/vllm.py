"""The launch config of one vLLM engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tri_serve.errors import LaunchError
from tri_serve.launch.config import LaunchConfig
from tri_serve.launch.device import Device
from tri_serve.launch.environment import EngineEnvironment, not_started
from tri_serve.launch.options import Option, joined
from tri_serve.launch.version_gates import version_gate
from tri_serve.launch.vllm_flags import check_extra_args
from tri_serve.launch.vllm_options import OFFLINE, PRIVATE, vllm_cpu_variables, vllm_options
from tri_serve.spec.engine import EngineSpec
from tri_serve.spec.models import Spec

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
    engine = spec.engine
    if engine.kind != "vllm":
        raise not_started(engine.kind)
    gate = version_gate("vllm", engine.version)
    check_extra_args(engine.extra_args, gate)
    if "VLLM_API_KEY" in engine.env:
        raise LaunchError(
            "engine.env: VLLM_API_KEY cannot be given: each fleet makes its engines' key itself",
            hint="gateway.keys_file holds the keys that clients present",
        )
    options = [
        *vllm_options(spec, device),
        Option("--host", host, ""),
        Option("--port", str(port), ""),
        Option("--enable-prompt-tokens-details", None, ""),
        Option("--disable-uvicorn-access-log", None, ""),
    ]
    if api_key is not None:
        options.append(Option("--middleware", _KEY_MIDDLEWARE, ""))
    gate.check(options)
    env = _common_env(environment)
    if device == "cpu":
        env |= _cpu_env(engine, (cores - 1) // (replicas_here or spec.fleet.most_replicas))
    else:
        # A number means the GPU that the driver calls so; CUDA by itself would count the fastest first.
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    # The spec's own variables win, but for this one: it names the GPUs of the fleet, not those of one replica.
    assigned = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    if api_key is not None:
        places = (str(_INSIDE), *filter(None, [engine.env.get("PYTHONPATH")]))
        assigned["PYTHONPATH"] = os.pathsep.join(places)
    return LaunchConfig(
        argv=(*environment.command, str(checkpoint), *joined(options), *engine.extra_args),
        env=env | engine.env | assigned,
        secret_env={} if api_key is None else {"VLLM_API_KEY": api_key},
        host=host,
        port=port,
        # What it computes on a GPU needs its CPU at once.
        nice=engine.cpu_nice if device == "cpu" else 0,
    )


def _common_env(environment: EngineEnvironment) -> dict[str, str]:
    env = {
        # A folder called vllm in the working directory must not shadow the real one.
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_SECONDS),
        **PRIVATE,
        **OFFLINE,
    }
    if environment.managed:
        env["PYTHONNOUSERSITE"] = "1"
    return env


def _cpu_env(engine: EngineSpec, cores: int) -> dict[str, str]:
    return vllm_cpu_variables(engine) | {"OMP_NUM_THREADS": str(engine.cpu_threads or max(1, cores))}
