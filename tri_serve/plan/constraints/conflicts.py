"""Rules on options of which one makes another void."""

from __future__ import annotations

from collections.abc import Iterator

from tri_serve.plan.constraints.request import Request
from tri_serve.plan.constraints.rule import Found, Rule
from tri_serve.plan.flags import as_change, flags_in, without
from tri_serve.plan.kv_cache import KV_BYTES_FLAG
from tri_serve.spec.engine import EngineSpec

GRAPH_FLAGS = frozenset({"--cudagraph-capture-sizes", "--max-cudagraph-capture-size"})


def _kv_bytes(request: Request) -> Iterator[Found]:
    engine = request.spec.engine
    if not any(flag.name == KV_BYTES_FLAG for flag in flags_in(engine.extra_args)):
        return
    change = as_change(without(engine.extra_args, {KV_BYTES_FLAG}))
    if request.on_cpu:
        yield Found(
            "warning",
            f"engine.cpu_kv_cache_gib ({engine.cpu_kv_cache_gib:g}) and {KV_BYTES_FLAG} both say how large the "
            "KV cache is; the engine takes the first if it is a whole number",
            change=change,
        )
    elif engine.gpu_memory_utilization != _default("gpu_memory_utilization"):
        yield Found(
            "warning",
            f"{KV_BYTES_FLAG} makes engine.gpu_memory_utilization ({engine.gpu_memory_utilization:g}) void: the "
            "KV cache gets just those bytes, whether they fit or not",
            change=change,
        )


KV_CACHE_BYTES = Rule(
    "kv-cache-bytes",
    "The size of the KV cache is said once.",
    "vLLM 0.32.0: config/cache.py (kv_cache_memory_bytes), platforms/cpu.py (VLLM_CPU_KVCACHE_SPACE)",
    ("warning",),
    _kv_bytes,
)


def _eager(request: Request) -> Iterator[Found]:
    arguments = request.spec.engine.extra_args
    names = {flag.name for flag in flags_in(arguments)}
    graphs = sorted(names & GRAPH_FLAGS)
    if "--enforce-eager" in names and graphs:
        yield Found(
            "warning",
            f"--enforce-eager turns CUDA graphs off, so {' and '.join(graphs)} do nothing",
            change=as_change(without(arguments, GRAPH_FLAGS)),
            advice="or leave out --enforce-eager: decoding is faster with CUDA graphs",
        )


EAGER = Rule(
    "eager-and-graphs",
    "CUDA graphs are not configured where they are turned off.",
    "vLLM 0.32.0: config/vllm.py (enforce_eager)",
    ("warning",),
    _eager,
)


def _no_graphs(request: Request) -> Iterator[Found]:
    arguments = request.spec.engine.extra_args
    if not request.on_cpu and any(flag.name == "--enforce-eager" for flag in flags_in(arguments)):
        yield Found(
            "warning",
            "--enforce-eager: without CUDA graphs and compiled kernels each step waits for the processor to launch "
            "its kernels, so tokens come more slowly than is said here, most of all with few users",
            change=as_change(without(arguments, {"--enforce-eager"})),
        )


NO_GRAPHS = Rule(
    "no-cuda-graphs",
    "Decoding is predicted for an engine with CUDA graphs.",
    "vLLM 0.32.0: config/vllm.py (enforce_eager: CompilationMode.NONE, CUDAGraphMode.NONE)",
    ("warning",),
    _no_graphs,
)

_OF_THE_CPU = {"cpu_kv_cache_gib": "1.0", "cpu_threads": "null", "cpu_nice": "10"}
_OF_A_GPU = {"gpu_memory_utilization": "0.92"}


def _void_keys(request: Request) -> Iterator[Found]:
    engine = request.spec.engine
    keys, kind = (_OF_A_GPU, "CPU") if request.on_cpu else (_OF_THE_CPU, "GPU")
    void = {key: text for key, text in keys.items() if getattr(engine, key) != _default(key)}
    if void:
        named = ", ".join(f"engine.{key}" for key in void)
        yield Found(
            "note",
            f"{named} {'does' if len(void) == 1 else 'do'} nothing on a {kind}",
            change={f"engine.{key}": text for key, text in void.items()},
        )


VOID_KEYS = Rule(
    "keys-of-another-device",
    "Keys of the CPU are not set for a GPU, nor those of a GPU for the CPU.",
    "tri-serve's own launch configs",
    ("note",),
    _void_keys,
)


def _default(key: str) -> object:
    return EngineSpec.model_fields[key].default


RULES = (KV_CACHE_BYTES, EAGER, NO_GRAPHS, VOID_KEYS)
