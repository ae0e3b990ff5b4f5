"""What a spec says, as options of ``vllm serve``: the same for an engine of a fleet and for one of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from tri_serve.launch.device import Device
from tri_serve.launch.options import Option
from tri_serve.launch.vllm_flags import has_flag
from tri_serve.spec.engine import EngineSpec
from tri_serve.spec.models import Spec

_NAMES_FORMAT_SINCE = (0, 24)
"""From this version read on, ``--quantization awq`` and ``gptq`` name the checkpoint's format. In 0.18 they name
slow kernels that take float16 alone (model_executor/layers/quantization/awq_marlin.py); without the flag,
config.json decides, as it does in every version."""


def _names_format(version: str) -> bool:
    major, minor = re.findall(r"\d+", version)[:2]
    return (int(major), int(minor)) >= _NAMES_FORMAT_SINCE


def vllm_options(spec: Spec, device: Device) -> Iterator[Option]:
    """All but where it listens."""
    model, engine = spec.model, spec.engine
    yield Option("--served-model-name", model.served_name, "model.served_name")
    yield Option("--dtype", engine.dtype, "engine.dtype")
    if model.max_model_len is not None:
        yield Option("--max-model-len", str(model.max_model_len), "model.max_model_len")
    if model.quantization not in {"auto", "none"} and _names_format(engine.version):
        yield Option("--quantization", model.quantization, "model.quantization")
    if model.trust_remote_code:
        yield Option("--trust-remote-code", None, "model.trust_remote_code")
    if engine.tensor_parallel_size > 1:
        size = str(engine.tensor_parallel_size)
        yield Option("--tensor-parallel-size", size, "engine.tensor_parallel_size")
    if engine.kv_cache_dtype != "auto":
        yield Option("--kv-cache-dtype", engine.kv_cache_dtype, "engine.kv_cache_dtype")
    if engine.max_num_seqs is not None:
        yield Option("--max-num-seqs", str(engine.max_num_seqs), "engine.max_num_seqs")
    if engine.max_num_batched_tokens is not None:
        tokens = str(engine.max_num_batched_tokens)
        yield Option("--max-num-batched-tokens", tokens, "engine.max_num_batched_tokens")
    # vLLM takes whole seconds, and 0 would abort what is running.
    yield Option("--shutdown-timeout", str(math.ceil(engine.shutdown_timeout)), "engine.shutdown_timeout")
    if device == "cpu":
        if not has_flag(engine.extra_args, "--enforce-eager", "--no-enforce-eager"):
            # Compiling takes longer than a small model saves by it on a CPU.
            yield Option("--enforce-eager", None, "")
        if not engine.cpu_kv_cache_gib.is_integer():
            # VLLM_CPU_KVCACHE_SPACE takes whole GiB only.
            size = str(int(engine.cpu_kv_cache_gib * 2**30))
            yield Option("--kv-cache-memory-bytes", size, "engine.cpu_kv_cache_gib")
    else:
        share = f"{engine.gpu_memory_utilization:g}"
        yield Option("--gpu-memory-utilization", share, "engine.gpu_memory_utilization")


def vllm_cpu_variables(engine: EngineSpec) -> dict[str, str]:
    """What the CPU backend takes from its environment, but for the number of its threads."""
    env = {
        # An official wheel finds this out by its version, other builds by this.
        "VLLM_TARGET_DEVICE": "cpu",
        # Binding threads to cores would put every replica on the same ones.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    if engine.cpu_kv_cache_gib.is_integer():
        env["VLLM_CPU_KVCACHE_SPACE"] = str(int(engine.cpu_kv_cache_gib))
    return env


# Nobody is told what is served, by neither way of saying so.
PRIVATE = {"DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1"}
"""Variables that turn vLLM's usage reports off."""

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Variables for a checkpoint that is a directory: whatever would still ask a hub is a mistake, found now and not
when the network is away. Both are needed: each library reads its own."""
