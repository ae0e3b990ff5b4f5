"""Rules on memory: what is free, and whether weights and one whole sequence fit."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tri_serve.plan.constraints.attention import attention_backend
from tri_serve.plan.constraints.request import Request
from tri_serve.plan.constraints.rule import Found, Rule, Way
from tri_serve.plan.constraints.shapes import splits
from tri_serve.plan.constraints.voided import memory_voided_by
from tri_serve.plan.flags import as_change, without
from tri_serve.plan.kv_cache import KV_BYTES_FLAG, given_kv_bytes
from tri_serve.plan.result import MemoryPlan

GIB = 2**30
LEAST_LENGTH = 1_024
"""Tokens below which a shorter context is no answer to a model that does not fit."""
LEAST_SHARE = 0.05
MOST_RANKS = 8
"""GPUs that one machine commonly has."""


def gib(nbytes: float) -> str:
    """Bytes for people: ``22.3 GiB``."""
    return f"{nbytes / GIB:.1f} GiB"


def _free(request: Request) -> Iterator[Found]:
    device, memory = request.device, request.memory
    if request.on_cpu or memory is None or memory.starts:
        return
    free = memory.startable
    works = math.floor(free / memory.usable * 100) / 100
    others = device.total_bytes - device.free_bytes
    said = f", of which other programs hold {gib(others)}" if others else ""
    context = (
        f" after the {gib(device.free_bytes - free)} of driver and CUDA context"
        if free < device.free_bytes
        else ""
    )
    yield Found(
        "refusal",
        f"the engine takes {request.spec.engine.gpu_memory_utilization:g} of the {gib(memory.usable)} that "
        f"CUDA counts of {device.gpu.title}{said}: {gib(memory.requested)}, and {gib(free)} are free{context}",
        change={"engine.gpu_memory_utilization": f"{works:g}"} if works >= LEAST_SHARE else {},
        advice="or end what else uses the GPU (nvidia-smi lists it)" if others else "",
    )


FREE = Rule(
    "free-memory",
    "The share of the GPU's memory that the engine takes is free when it starts.",
    "vLLM 0.32.0: v1/worker/utils.py, request_memory",
    ("refusal",),
    _free,
)


def _fits(request: Request) -> Iterator[Found]:
    memory = request.memory
    if memory is None:
        return
    if memory.fits:
        yield from _given_cache_fits(request, memory)
        return
    weights = _weights(memory)
    said = f"weights take {gib(weights)} of the " if weights else ""
    if memory.kv_bytes <= 0:
        message = (
            f"the model does not fit: {said}{gib(memory.requested)} that the engine has on each "
            f"{request.device.gpu.title}, and {gib(-memory.kv_bytes)} are missing before there is any KV "
            "cache"
        )
    else:
        needed = memory.max_model_len * memory.kv_bytes_per_token
        message = (
            f"not one sequence of full length fits: {memory.max_model_len:,} tokens need {gib(needed)} of KV "
            f"cache, and {gib(memory.kv_bytes)} are left for it ({memory.kv_tokens:,} tokens)"
        )
    if void := memory_voided_by(request.spec.engine.extra_args):
        yield Found("warning", f"{message}; but {void} changes what is on the GPU, and is not counted in")
        return
    yield Found("refusal", message, ways=(*_ways(request, memory), *_elsewhere(request)))


def _given_cache_fits(request: Request, memory: MemoryPlan) -> Iterator[Found]:
    """A KV cache whose size the user gives is not cut down to what is left: it is allocated, or is not."""
    engine = request.spec.engine
    given = given_kv_bytes(engine)
    over = -sum(term.nbytes for term in memory.outside if term.name == "headroom")
    if given is None or request.on_cpu or over <= 0:
        return
    room = given - over
    void = memory_voided_by(engine.extra_args)
    change = as_change(without(engine.extra_args, {KV_BYTES_FLAG}))
    helps = _would_fit(request, change)
    yield Found(
        "warning" if void else "refusal",
        f"{KV_BYTES_FLAG} gives the KV cache {gib(given)}, and beside {gib(_weights(memory))} of weights, and what "
        f"the engine works with, {gib(max(0, room))} of {request.device.gpu.title}'s {gib(memory.total)} are left"
        + (f"; but {void} changes what is on the GPU, and is not counted in" if void else ""),
        change=change if helps else {},
        advice="without it the engine takes what is there"
        + (f"; {KV_BYTES_FLAG}={room // 2**20 * 2**20} fits" if room >= 2**20 else "")
        if helps
        else "a smaller or more quantised checkpoint, or more GPUs",
    )


def is_certainly_too_large(request: Request) -> bool:
    """Whether it fits under no assumption: weights and KV cache alone, counted from the model's shape, are more
    than the engine has. What else lies there rests on priors."""
    memory = request.memory
    if memory is None or memory_voided_by(request.spec.engine.extra_args):
        return False
    architecture = request.model.architecture
    # A layer with a window holds less than a whole sequence.
    whole = 1 - architecture.sliding_layers / architecture.num_hidden_layers
    sequence = memory.max_model_len * memory.kv_bytes_per_token * whole
    given, weights = given_kv_bytes(request.spec.engine), _weights(memory)
    if given is not None:
        return given < sequence or weights + given > memory.usable
    return weights + sequence > memory.requested


def _weights(memory: MemoryPlan) -> int:
    return sum(term.nbytes for term in memory.terms if term.name == "weights")


def _ways(request: Request, memory: MemoryPlan) -> Iterator[Way]:
    """Changes of the spec with which it fits, least first."""
    if request.on_cpu:
        yield from _more_kv_cache_on_the_cpu(memory)
    if length := _length_that_fits(request, memory):
        yield Way(f"a context of {length:,} tokens fits", {"model.max_model_len": str(length)})
    if request.planner is None:
        return
    if memory.kv_bytes > 0 and request.spec.engine.kv_cache_dtype == "auto":
        change = {"engine.kv_cache_dtype": "fp8"}
        if attention_backend(request.changed(change)).backend and _would_fit(request, change):
            yield Way("engine.kv_cache_dtype: fp8 fits, and costs some accuracy", change)
    if request.on_cpu:
        return
    share = _larger_share(memory)
    if share is not None and _would_fit(request, change := {"engine.gpu_memory_utilization": f"{share:g}"}):
        yield Way(f"engine.gpu_memory_utilization {share:g} fits", change)
    for ranks in range(request.tensor_parallel + 1, MOST_RANKS + 1):
        enough = request.device.seen == "catalogue" or ranks <= request.device.count
        change = {"engine.tensor_parallel_size": str(ranks)}
        if enough and splits(request.model, ranks) and _would_fit(request, change):
            yield Way(
                f"{ranks} × {request.device.gpu.title} fit (engine.tensor_parallel_size {ranks})", change
            )
            return


def _more_kv_cache_on_the_cpu(memory: MemoryPlan) -> Iterator[Way]:
    """There the KV cache has the size that the spec gives it, in blocks of which one is kept back."""
    needed = math.ceil((memory.max_model_len + 2 * memory.block_tokens) * memory.kv_bytes_per_token / GIB)
    if memory.requested - memory.kv_bytes + needed * GIB <= memory.free:
        yield Way(f"engine.cpu_kv_cache_gib {needed} fits", {"engine.cpu_kv_cache_gib": f"{needed}.0"})


def _length_that_fits(request: Request, memory: MemoryPlan) -> int | None:
    """The longest context of which one sequence fits, in whole blocks."""
    for _ in range(3):
        # A shorter context can change the engine's batch, and so what is left for the KV cache.
        length = min(memory.kv_tokens, memory.max_model_len - 1) // memory.block_tokens * memory.block_tokens
        if memory.kv_bytes <= 0 or length < LEAST_LENGTH:
            return None
        shorter = request.changed({"model.max_model_len": str(length)}).memory
        if request.planner is None or shorter is None or shorter.fits:
            return length
        memory = shorter
    return None


def _larger_share(memory: MemoryPlan) -> float | None:
    """The least share of the GPU's memory that has room for one sequence, if so much is free."""
    block = memory.block_tokens * memory.kv_bytes_per_token
    missing = memory.max_model_len * memory.kv_bytes_per_token + 2 * block - memory.kv_bytes
    share = math.ceil((memory.requested + missing) / memory.usable * 100) / 100
    return share if math.ceil(share * memory.usable) <= memory.startable else None


def _would_fit(request: Request, change: dict[str, str]) -> bool:
    memory = request.changed(change).memory
    return memory is not None and memory.fits


def _elsewhere(request: Request) -> Iterator[Way]:
    """What no key of the spec says: another checkpoint, another GPU."""
    model = request.model
    if model.quantization.method == "none":
        architecture = model.architecture
        linear = sum(n * k for n, k in architecture.linear_shapes().values()) * architecture.num_hidden_layers
        # Half a byte and a 16-bit scale for each 128, with zero points of 4 bits.
        small = model.weight_bytes - 2 * linear + linear * (0.5 + 2.5 / 128)
        yield Way(
            f"a 4-bit checkpoint of this model takes some {gib(small)} of weights in place of "
            f"{gib(model.weight_bytes)}"
        )
    if request.planner is None:
        return
    for gpu in request.gpus:
        if gpu.is_cpu or gpu.name == request.device.gpu.name:
            continue
        there = request.on(gpu)
        if there.memory is not None and there.memory.fits:
            yield Way(f"{gpu.title} would hold it", gpu=gpu)
            return


FITS = Rule(
    "memory",
    "Weights fit, and beside them the KV cache of one sequence of full length.",
    "vLLM 0.32.0: v1/core/kv_cache_utils.py, _check_enough_kv_cache_memory, v1/worker/gpu_worker.py "
    "(kv_cache_memory_bytes); the terms are the plan's",
    ("refusal", "warning"),
    _fits,
    any_engine=True,
)


def _host(request: Request) -> Iterator[Found]:
    """On the CPU what is asked for is allocated, so it must be free."""
    memory, device = request.memory, request.device
    if memory is None or not request.on_cpu or device.seen != "this machine":
        return
    replicas = request.spec.fleet.initial_replicas
    beside = memory.requested - memory.kv_bytes
    if replicas * memory.requested <= device.free_bytes:
        return
    room = math.floor((device.free_bytes / replicas - beside) / GIB)
    yield Found(
        "refusal",
        f"{replicas} engine{'s' if replicas > 1 else ''} on the CPU take {gib(replicas * memory.requested)}: a KV "
        f"cache of {gib(memory.kv_bytes)} and {gib(beside)} beside it each; {gib(device.free_bytes)} are free",
        change={"engine.cpu_kv_cache_gib": f"{room}.0"} if room >= 1 else {},
        advice="" if room >= 1 else "a machine with more memory, fewer replicas, or a smaller model",
    )


HOST = Rule(
    "free-memory-of-the-cpu",
    "On the CPU, weights and KV caches of all replicas fit in free memory.",
    "vLLM 0.32.0: v1/worker/cpu_worker.py, determine_available_memory",
    ("refusal",),
    _host,
)

RULES = (FREE, FITS, HOST)
