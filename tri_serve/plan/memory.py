"""What lies in the memory of each device of one engine, as vLLM decides it.

On a GPU (vLLM 0.32, v1/worker/gpu_worker.py, determine_available_memory, and v1/worker/utils.py, request_memory):
``requested = ceil(total * utilization)``, and the engine does not start if less is free once its CUDA context is
there; what a run with a full batch takes and what CUDA graphs are estimated to take is measured and goes off; the
rest is KV cache. On the CPU the KV cache has the size that it is given.
"""

from __future__ import annotations

import math
import re

from tri_serve.plan.batching import (
    GIB,
    Limits,
    Recommendation,
    engine_limits,
    graph_sizes,
    recommended_limits,
)
from tri_serve.plan.facts import ModelFacts, PlanDevice
from tri_serve.plan.flags import flags_in
from tri_serve.plan.kv_cache import CPU_BLOCK, GPU_BLOCK, KvCache, block_tokens, given_kv_bytes, kv_cache
from tri_serve.plan.result import MemoryPlan, Term
from tri_serve.plan.weights import (
    ELEMENT_BYTES,
    engine_dtype,
    loaded_parameter_bytes,
    padded_vocabulary,
    rank_weights,
)
from tri_serve.spec.engine import EngineSpec

MIB = 2**20

DRIVER_BYTES = 512 * MIB
"""What a board's memory is larger by than what CUDA calls its total: the driver keeps it (nvidia-smi's
memory.reserved). A prior, for boards that are not here to be asked: 0.35 to 0.6 GiB on boards of 24 to 80 GB."""
CONTEXT_BYTES = 512 * MIB
"""A CUDA context with PyTorch's and vLLM's kernels. A prior: contexts of current drivers take some 300 to 600 MiB,
more on larger GPUs. It is there before the engine looks at what is free."""
RANKS_BYTES = 512 * MIB
"""What talking to other ranks adds to it (NCCL's buffers). A prior."""
UNTRACKED_BYTES = 256 * MIB
"""What else goes off while a full batch is tried: library workspaces, kernels loaded late, memory that PyTorch
holds in pieces too small to give back. A prior: logs of engines in vLLM's issues show 0.1 to 0.4 GiB."""
GRAPH_BYTES_PER_LAYER = 3 * MIB // 10
"""Of one captured CUDA graph, for each layer of the model. A prior: 12 MiB a graph for 40 layers, and logs of
engines show 9 to 28 MiB (vllm#48214, vllm#22897)."""
LOGIT_BYTES = 16
"""Of one logit while a token is sampled: the model's own, a copy in float32, and what sorting or normalising them
takes. A prior, on the safe side: vLLM tries only the first two when it measures."""
CPU_ENGINE_BYTES = int(1.5 * GIB)
"""A vLLM 0.32 CPU engine without weights and KV cache: 1.46 GB measured (PSS of its processes, tiny checkpoint)."""

_GRAPHS_COUNTED_SINCE = (0, 21)
_WORKER = "vLLM 0.32, v1/worker/gpu_worker.py"
_TENSORS = "arithmetic on the tensors that vLLM 0.32 makes for this architecture (models/llama.py)"


def plan_memory(model: ModelFacts, device: PlanDevice, engine: EngineSpec, max_model_len: int) -> MemoryPlan:
    """The memory of each device when ``model`` is served with ``engine`` in sequences of ``max_model_len`` tokens.

    Nothing is refused: a plan that does not fit says so (``fits``, ``starts``). A size that does not divide among
    the ranks is rounded down.
    """
    if device.gpu.is_cpu:
        return _on_cpu(model, device, engine, max_model_len)
    return _on_gpu(model, device, engine, max_model_len)


def _on_gpu(model: ModelFacts, device: PlanDevice, engine: EngineSpec, max_model_len: int) -> MemoryPlan:
    capability = device.gpu.compute_capability
    assert capability is not None
    limits = engine_limits(device, engine, max_model_len)
    weights = _weights(model, engine, capability)
    buffers, graphs = _buffers(model, engine, limits, capability)
    terms = [weights, *buffers]
    taken = sum(term.nbytes for term in terms)
    driver = _driver(device)
    usable = device.total_bytes - sum(term.nbytes for term in driver)
    requested = math.ceil(usable * engine.gpu_memory_utilization)
    given = given_kv_bytes(engine)
    kv_bytes = requested - taken if given is None else given
    formula = f"{requested:,} - {taken:,}" if given is None else f"--kv-cache-memory-bytes: {given:,}"
    block = block_tokens(engine, GPU_BLOCK)
    cache = kv_cache(model, engine, max_model_len, kv_bytes, block, capability)
    terms.append(_kv_term(cache, kv_bytes, formula, f"{_WORKER}, determine_available_memory"))
    outside = [*driver, _context(engine), *graphs]
    outside.append(_headroom(device, requested if given is None else taken + given, outside))

    def kv_tokens(limits: Limits) -> int:
        buffers = sum(term.nbytes for term in _buffers(model, engine, limits, capability)[0])
        left = requested - weights.nbytes - buffers if given is None else given
        return kv_cache(model, engine, max_model_len, left, block, capability).tokens

    advised = recommended_limits(model, device, engine, max_model_len, kv_tokens)
    return _plan(device, max_model_len, requested, terms, outside, kv_bytes, cache, limits, advised)


def _on_cpu(model: ModelFacts, device: PlanDevice, engine: EngineSpec, max_model_len: int) -> MemoryPlan:
    weights = loaded_parameter_bytes(model, engine.tensor_parallel_size, dtype=engine.dtype)
    given = given_kv_bytes(engine)
    kv_bytes = int(engine.cpu_kv_cache_gib * GIB) if given is None else given
    cache = kv_cache(model, engine, max_model_len, kv_bytes, block_tokens(engine, CPU_BLOCK))
    terms = [
        Term(
            name="weights",
            nbytes=weights,
            formula=f"{model.weight_bytes:,} in the checkpoint, as vLLM loads them",
            source=_TENSORS,
        ),
        Term(
            name="engine",
            nbytes=CPU_ENGINE_BYTES,
            formula=f"{CPU_ENGINE_BYTES:,}",
            source="measured with vLLM 0.32 on the CPU: its processes without weights and KV cache",
        ),
        _kv_term(
            cache,
            kv_bytes,
            f"{engine.cpu_kv_cache_gib:g} GiB" if given is None else f"--kv-cache-memory-bytes: {given:,}",
            "vLLM 0.32, platforms/cpu.py: what VLLM_CPU_KVCACHE_SPACE or --kv-cache-memory-bytes says",
        ),
    ]
    requested = sum(term.nbytes for term in terms)
    limits = engine_limits(device, engine, max_model_len)
    advised = recommended_limits(model, device, engine, max_model_len, lambda _: cache.tokens)
    return _plan(device, max_model_len, requested, terms, [], kv_bytes, cache, limits, advised)


def _buffers(
    model: ModelFacts, engine: EngineSpec, limits: Limits, capability: tuple[int, int]
) -> tuple[list[Term], list[Term]]:
    """What goes off beside weights before the KV cache is given its size, and what this version does not count."""
    terms = [_activations(model, engine, limits), _untracked()]
    graphs = _graphs(model, engine, limits, capability)
    if graphs is None:
        return terms, []
    if _version(engine) < _GRAPHS_COUNTED_SINCE:
        return terms, [graphs]
    return [*terms, graphs], []


def _plan(
    device: PlanDevice,
    max_model_len: int,
    requested: int,
    terms: list[Term],
    outside: list[Term],
    kv_bytes: int,
    cache: KvCache,
    limits: Limits,
    advised: Recommendation,
) -> MemoryPlan:
    return MemoryPlan(
        total=device.total_bytes,
        free=device.free_bytes,
        requested=requested,
        terms=tuple(terms),
        outside=tuple(outside),
        kv_bytes=kv_bytes,
        kv_dtype=cache.dtype,
        kv_bytes_per_token=cache.token_bytes,
        block_tokens=cache.block_tokens,
        blocks=cache.blocks,
        kv_tokens=cache.tokens,
        max_model_len=max_model_len,
        full_length_sequences=cache.full_length,
        max_num_seqs=limits.sequences,
        max_num_batched_tokens=limits.tokens,
        recommended={
            "max_num_seqs": advised.limits.sequences,
            "max_num_batched_tokens": advised.limits.tokens,
        },
        reasons={
            "max_num_seqs": advised.sequences_reason,
            "max_num_batched_tokens": advised.tokens_reason,
        },
    )


def _weights(model: ModelFacts, engine: EngineSpec, capability: tuple[int, int]) -> Term:
    ranks = engine.tensor_parallel_size
    weights = rank_weights(model, ranks, dtype=engine.dtype, compute_capability=capability)
    share = f" on each of {ranks} ranks" if ranks > 1 else ""
    why = ""
    if model.quantization.method == "bitsandbytes":
        why = ", whose scales the kernels keep in float32"
    return Term(
        name="weights",
        nbytes=weights.total,
        formula=(
            f"{weights.linears:,} linear layers + {weights.tables:,} embedding and lm_head + {weights.norms:,} "
            f"norms{share}; {model.weight_bytes:,} in the checkpoint{why}"
        ),
        source=_TENSORS,
    )


def _activations(model: ModelFacts, engine: EngineSpec, limits: Limits) -> Term:
    """The most that lives at once: in the MLP of one layer, or while tokens are sampled.

    The larger of the two and not their sum: what an engine measured stayed the same from 1 sequence to 128, and was
    more for 256 (vllm#9003).
    """
    architecture, ranks = model.architecture, engine.tensor_parallel_size
    element = ELEMENT_BYTES[engine_dtype(engine.dtype, architecture)]
    hidden = 4 * limits.tokens * architecture.hidden_size * element
    wide = 3 * limits.tokens * (architecture.intermediate_size // ranks) * element
    sequences = min(limits.sequences, limits.tokens)
    logits = sequences * padded_vocabulary(architecture) * LOGIT_BYTES
    return Term(
        name="activations",
        nbytes=hidden + max(wide, logits),
        formula=(
            f"4 * {limits.tokens:,} tokens * {architecture.hidden_size:,} * {element} + the larger of "
            f"3 * {limits.tokens:,} * {architecture.intermediate_size // ranks:,} * {element} (MLP) and "
            f"{sequences:,} sequences * {padded_vocabulary(architecture):,} * {LOGIT_BYTES} (sampling)"
        ),
        source="prior: shapes of vLLM 0.32's models/llama.py and sampler for the batch that it tries at its start "
        "(profile_run); the engine measures it",
    )


def _untracked() -> Term:
    return Term(
        name="workspaces",
        nbytes=UNTRACKED_BYTES,
        formula=f"{UNTRACKED_BYTES:,}",
        source="prior: library workspaces and late-loaded kernels; the engine measures it",
    )


def _graphs(
    model: ModelFacts, engine: EngineSpec, limits: Limits, capability: tuple[int, int]
) -> Term | None:
    if any(flag.name == "--enforce-eager" for flag in flags_in(engine.extra_args)):
        return None
    sizes = graph_sizes(limits, capability)
    # Each size once in pieces, and once whole where every sequence adds one token.
    captured = len(sizes) + sum(size <= limits.sequences for size in sizes)
    layers = model.architecture.num_hidden_layers
    return Term(
        name="CUDA graphs",
        nbytes=captured * layers * GRAPH_BYTES_PER_LAYER,
        formula=f"{captured} graphs * {layers} layers * {GRAPH_BYTES_PER_LAYER:,}",
        source="prior: sizes as vLLM 0.32 captures them (config/vllm.py), bytes a graph from engines' logs; the "
        "engine estimates it at its start",
    )


def _context(engine: EngineSpec) -> Term:
    nbytes = CONTEXT_BYTES + (RANKS_BYTES if engine.tensor_parallel_size > 1 else 0)
    return Term(
        name="CUDA context",
        nbytes=nbytes,
        formula=f"{nbytes:,}",
        source=f"prior; it is there before {_WORKER}, init_device, looks at what is free",
    )


def _driver(device: PlanDevice) -> list[Term]:
    """What the driver keeps of a board that only the catalogue knows; one that is here gives its total without."""
    if device.seen == "this machine":
        return []
    return [
        Term(
            name="driver",
            nbytes=DRIVER_BYTES,
            formula=f"{DRIVER_BYTES:,}",
            source="prior: what nvidia-smi calls memory.reserved; CUDA does not count it in the device's total",
        )
    ]


def _headroom(device: PlanDevice, taken: int, outside: list[Term]) -> Term:
    others = sum(term.nbytes for term in outside)
    return Term(
        name="headroom",
        nbytes=device.total_bytes - taken - others,
        formula=f"{device.total_bytes:,} - {taken:,} - {others:,}",
        source="arithmetic: what is left for other programs, and for peaks that vLLM did not measure",
    )


def _kv_term(cache: KvCache, kv_bytes: int, formula: str, source: str) -> Term:
    page = cache.token_bytes * cache.block_tokens
    return Term(
        name="KV cache",
        nbytes=kv_bytes,
        formula=f"{formula}; // ({cache.block_tokens} tokens * {cache.token_bytes:,}) = "
        f"{cache.blocks:,} blocks of {page:,}",
        source=source,
    )


def _version(engine: EngineSpec) -> tuple[int, int]:
    major, minor = re.findall(r"\d+", engine.version)[:2]
    return int(major), int(minor)
