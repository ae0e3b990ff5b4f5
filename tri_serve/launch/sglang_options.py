"""What a spec says, as options of ``python3 -m sglang.launch_server``.

The names are vLLM's in the spec, so each is mapped here to what means the same, or nearly, in SGLang
(sglang/srt/arg_groups/fields, 0.5.23).
"""

from __future__ import annotations

from collections.abc import Iterator

from tri_serve.launch.device import Device
from tri_serve.launch.options import Option
from tri_serve.spec.engine import EngineSpec
from tri_serve.spec.models import Spec

SPEC_KEYS = {
    "--model-path": "model.source",
    "--revision": "model.revision",
    "--served-model-name": "model.served_name",
    "--context-length": "model.max_model_len",
    "--quantization": "model.quantization",
    "--trust-remote-code": "model.trust_remote_code",
    "--dtype": "engine.dtype",
    "--mem-fraction-static": "engine.gpu_memory_utilization",
    "--tp-size": "engine.tensor_parallel_size",
    "--kv-cache-dtype": "engine.kv_cache_dtype",
    "--max-running-requests": "engine.max_num_seqs",
    "--chunked-prefill-size": "engine.max_num_batched_tokens",
    "--device": "engine.device",
    "--host": "gateway.host",
    "--port": "gateway.port",
}
"""Flag → the key of the spec that says the same."""

_READABLE = "every user of the machine can read a process's arguments, and SGLang takes it in no other way"
REFUSED = {"--api-key": _READABLE, "--admin-api-key": _READABLE, "--ssl-keyfile-password": _READABLE}
"""Flag → why it cannot be given."""

# vLLM's fp8 is e4m3 (vllm/config/cache.py); SGLang wants it named.
_KV_CACHE = {"fp8": "fp8_e4m3"}


def sglang_options(spec: Spec, device: Device) -> Iterator[Option]:
    """All but where it listens."""
    model, engine = spec.model, spec.engine
    yield Option("--served-model-name", model.served_name, "model.served_name")
    yield Option("--dtype", engine.dtype, "engine.dtype")
    if model.max_model_len is not None:
        yield Option("--context-length", str(model.max_model_len), "model.max_model_len")
    if model.quantization not in {"auto", "none"}:
        yield Option("--quantization", model.quantization, "model.quantization")
    if model.trust_remote_code:
        yield Option("--trust-remote-code", None, "model.trust_remote_code")
    if engine.tensor_parallel_size > 1:
        yield Option("--tp-size", str(engine.tensor_parallel_size), "engine.tensor_parallel_size")
    if engine.kv_cache_dtype != "auto":
        dtype = _KV_CACHE.get(engine.kv_cache_dtype, engine.kv_cache_dtype)
        yield Option("--kv-cache-dtype", dtype, "engine.kv_cache_dtype")
    if engine.max_num_seqs is not None:
        yield Option("--max-running-requests", str(engine.max_num_seqs), "engine.max_num_seqs")
    if engine.max_num_batched_tokens is not None:
        tokens = str(engine.max_num_batched_tokens)
        yield Option("--chunked-prefill-size", tokens, "engine.max_num_batched_tokens")
    if device == "cpu":
        yield Option("--device", "cpu", "engine.device")
    elif shares_memory_otherwise(engine):
        share = f"{engine.gpu_memory_utilization:g}"
        yield Option("--mem-fraction-static", share, "engine.gpu_memory_utilization")


def shares_memory_otherwise(engine: EngineSpec) -> bool:
    """Whether the spec asks for a share of the GPU's memory of its own.

    The spec's default is vLLM's. SGLang counts otherwise: its share holds weights and KV cache alone, and what it
    works out itself from the device leaves room for the rest (0.92 would not, on most).
    """
    return engine.gpu_memory_utilization != EngineSpec().gpu_memory_utilization
