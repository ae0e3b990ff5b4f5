"""Rules on spreading a model over GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from tri_serve.plan.constraints.request import Request
from tri_serve.plan.constraints.rule import Found, Rule
from tri_serve.plan.constraints.shapes import (
    CPU_MULTIPLE,
    VOCABULARY_PADDING,
    RankLayer,
    heads_divide,
    kv_heads_divide,
    nearest_split,
    rank_layers,
    sizes_divide,
    split_groups,
    split_words,
    splits,
)
from tri_serve.plan.facts import ModelFacts

KEY = "engine.tensor_parallel_size"
GROUP_SIZES = (128, 64, 32)
"""That quantisers write and every kernel takes, largest first."""


def _nearest(request: Request) -> dict[str, str]:
    ranks = nearest_split(request.model, request.tensor_parallel)
    return {} if ranks is None else {KEY: str(ranks)}


def _heads_spread(request: Request) -> bool:
    """Whether heads can be spread at all: where they cannot, that is said alone, and no sizes that are rounded."""
    return heads_divide(request.model.architecture, request.tensor_parallel)


def _group_size(request: Request) -> Iterator[Found]:
    model, ranks = request.model, request.tensor_parallel
    group, method = model.quantization.group_size, model.quantization.method
    if group is None or not _heads_spread(request) or not (cut := split_groups(model, ranks)):
        return
    sizes = ", ".join(f"{layer.name} {layer.inputs:,} = {layer.inputs / group:g} × {group}" for layer in cut)
    yield Found(
        "refusal",
        f"groups of {group} are cut through by tensor parallelism over {ranks}: inputs on each "
        f"{request.rank}: {sizes}; {_what_happens(method, cut if request.on_cpu else None)}",
        change=_nearest(request),
        advice=_other_group_size(model, ranks),
    )


def _what_happens(method: str, on_cpu: tuple[RankLayer, ...] | None) -> str:
    """What vLLM does with a group that lies on two ranks; ``on_cpu``: the layers, where they run on a CPU."""
    if method == "compressed-tensors":
        return "the engine refuses to load such a layer (verify_group_size_divides_partition)"
    if on_cpu and any(layer.inputs % CPU_MULTIPLE for layer in on_cpu):
        return f"the engine's CPU kernel takes multiples of {CPU_MULTIPLE} inputs only"
    if method == "awq" and on_cpu is None:
        return 'the engine refuses to load such a layer ("The input size is not aligned")'
    return (
        f"no check of vLLM's catches this in {method} checkpoints{' on the CPU' if on_cpu else ''}: each "
        f"{'rank' if on_cpu else 'GPU'} takes its scales from the wrong rows, and answers can be wrong without "
        "an error"
    )


def _other_group_size(model: ModelFacts, ranks: int) -> str:
    """The largest group size with which so many ranks would do."""
    layers = rank_layers(model.architecture, ranks)
    works = next(
        (size for size in GROUP_SIZES if not any(layer.inputs % size for layer in layers)),
        None,
    )
    if works is None:
        return ""
    return f"a checkpoint quantised in groups of {works} works with {KEY} {ranks}"


GROUP_SIZE = Rule(
    "group-size-tensor-parallel",
    "Each GPU's inputs of every quantised layer are a whole number of groups.",
    "vLLM 0.32.0: distributed/utils.py (verify_group_size_divides_partition), quantization/auto_awq.py, "
    "compressed_tensors_wNa16.py; quantization/auto_gptq.py has no such check, and kernels/linear falls "
    "through Marlin, which has one, to Exllama or Humming, which have none, and on compute capability 9.0 "
    "begins with Machete, which has none either (the same in 0.24 and 0.29)",
    ("refusal",),
    _group_size,
)


def _heads(request: Request) -> Iterator[Found]:
    architecture, ranks = request.model.architecture, request.tensor_parallel
    if not _heads_spread(request):
        yield Found(
            "refusal",
            f"{architecture.num_attention_heads} query heads cannot be spread evenly over {ranks} {request.rank}s",
            change=_nearest(request),
        )


HEADS = Rule(
    "heads-tensor-parallel",
    "The number of query heads is a multiple of the tensor-parallel size.",
    "vLLM 0.32.0: config/model.py, verify_with_parallel_config",
    ("refusal",),
    _heads,
    any_engine=True,
)


def _kv_heads(request: Request) -> Iterator[Found]:
    architecture, ranks = request.model.architecture, request.tensor_parallel
    heads = architecture.num_key_value_heads
    if not _heads_spread(request):
        return
    if not kv_heads_divide(architecture, ranks):
        yield Found(
            "refusal",
            f"{heads} key-value heads and {ranks} {request.rank}s: one number must divide the other",
            change=_nearest(request),
        )
    elif ranks > heads:
        yield Found(
            "note",
            f"{ranks} {request.rank}s share {heads} key-value heads: each head is kept {ranks // heads} times, so "
            f"the KV cache of all {request.rank}s together holds no more tokens than with {heads}",
        )


KV_HEADS = Rule(
    "kv-heads-tensor-parallel",
    "Of the number of key-value heads and the tensor-parallel size, one is a multiple of the other.",
    "vLLM 0.32.0: model_executor/models/llama.py, LlamaAttention",
    ("refusal", "note"),
    _kv_heads,
    any_engine=True,
)


def _sizes(request: Request) -> Iterator[Found]:
    architecture, ranks = request.model.architecture, request.tensor_parallel
    if _heads_spread(request) and not sizes_divide(architecture, ranks):
        yield Found(
            "refusal",
            f"intermediate size {architecture.intermediate_size:,} and vocabulary "
            f"{architecture.vocab_size:,} (padded to a multiple of {VOCABULARY_PADDING}) must both be "
            f"multiples of {ranks}",
            change=_nearest(request),
        )


SIZES = Rule(
    "sizes-tensor-parallel",
    "The MLP's width and the padded vocabulary are multiples of the tensor-parallel size.",
    "vLLM 0.32.0: distributed/utils.py (divide), model_executor/layers/vocab_parallel_embedding.py",
    ("refusal",),
    _sizes,
)


def _words(request: Request) -> Iterator[Found]:
    cut = split_words(request.model, request.tensor_parallel)
    if cut and _heads_spread(request):
        bits = request.model.quantization.bits
        yield Found(
            "refusal",
            f"{cut[0][0]} on each of {request.tensor_parallel} {request.rank}s, no multiple of the {32 // bits} "
            f"weights that {request.model.quantization.method} packs into one 32-bit word",
            change=_nearest(request),
        )


WORDS = Rule(
    "packed-words-tensor-parallel",
    "Each GPU's part of a quantised layer is made of whole 32-bit words.",
    "vLLM 0.32.0: quantization/auto_awq.py, auto_gptq.py, compressed_tensors_wNa16.py (packed parameters)",
    ("refusal",),
    _words,
)


def _gpus(request: Request) -> Iterator[Found]:
    ranks, count = request.tensor_parallel, request.device.count
    if request.on_cpu or ranks <= count:
        return
    title = request.device.gpu.title
    if request.device.seen == "catalogue":
        yield Found("note", f"planned for {ranks} × {title}, joined in one machine")
        return
    there = f"{count} × {title} {'is' if count == 1 else 'are'} there"
    fits = count if splits(request.model, count) else nearest_split(request.model, ranks, at_most=count)
    yield Found(
        "refusal",
        f"{KEY} is {ranks}, and {there}",
        change={} if fits is None else {KEY: str(fits)},
    )


GPUS = Rule(
    "gpus-tensor-parallel",
    "One engine does not need more GPUs than there are.",
    'vLLM 0.32.0: config/parallel.py ("World size … is larger than the number of available GPUs")',
    ("refusal", "note"),
    _gpus,
    any_engine=True,
)


def _replicas(request: Request) -> Iterator[Found]:
    fleet, ranks, count = request.spec.fleet, request.tensor_parallel, request.device.count
    replicas = fleet.most_replicas
    if request.on_cpu or replicas == 1 or replicas * ranks <= count or fleet.target != "local":
        return
    if request.device.seen == "catalogue":
        yield Found("note", f"{replicas} replicas take {replicas * ranks} × {request.device.gpu.title}")
        return
    fits = count // ranks
    share = request.spec.engine.gpu_memory_utilization
    key = "fleet.replicas" if fleet.autoscaling is None else "fleet.replicas.max"
    change = {key: str(fits)} if fits else {}
    if fleet.autoscaling is not None and fits < fleet.autoscaling.min:
        change = {"fleet.replicas": str(fits)} if fits else {}
    yield Found(
        "refusal",
        f"{replicas} replicas of {ranks} GPU{'s' if ranks > 1 else ''} each need {replicas * ranks} GPUs, "
        f"and {count} {'is' if count == 1 else 'are'} there; two engines on one GPU would each take "
        f"{share:.0%} of its memory, hold the same weights twice, and share its bandwidth, which is what "
        "limits decoding",
        change=change,
        advice="one engine serves many requests at once: raise engine.max_num_seqs rather than fleet.replicas",
    )


REPLICAS = Rule(
    "replicas-and-gpus",
    "No two replicas share a GPU.",
    "arithmetic; vLLM 0.32.0: v1/worker/utils.py (request_memory) refuses to start where its share is not free",
    ("refusal", "note"),
    _replicas,
    any_engine=True,
)

RULES = (GROUP_SIZE, HEADS, KV_HEADS, SIZES, WORDS, GPUS, REPLICAS)
