"""Rules on how weights are stored: what the spec says of it, and what the engine can compute with."""

from __future__ import annotations

from collections.abc import Iterator

from tri_serve.plan.constraints.kernels import (
    FAST,
    MARLIN_GROUPS,
    fits_tiles,
    kernel_expectation,
    kernel_of,
    layer_kernel,
)
from tri_serve.plan.constraints.request import Request, Version
from tri_serve.plan.constraints.rule import Found, Rule
from tri_serve.plan.constraints.shapes import quantized_layers, split_groups

BNB_PLUGIN_SINCE: Version = (0, 28)
BNB_PLUGIN = "vllm-bnb-plugin"
ACT_ORDER_GONE: Version = (0, 30)
LEAST_CAPABILITY = (7, 5)


def _agreement(request: Request) -> Iterator[Found]:
    said, found = request.spec.model.quantization, request.model.quantization.method
    if said in ("auto", found):
        return
    does = (
        f'an engine of vLLM ends with "Cannot find the config file for {said}"'
        if found == "none"
        else f'an engine of vLLM ends with "… specified in the model config ({found}) does not match …"'
    )
    if said == "none":
        does = "nothing turns the quantization of a checkpoint off"
    yield Found(
        "refusal",
        f"model.quantization is {said}, and config.json says {found}; {does}",
        change={"model.quantization": "auto"},
        advice=f"a checkpoint in {said} form is another checkpoint: point model.source at it",
    )


AGREEMENT = Rule(
    "quantization-of-the-checkpoint",
    "`model.quantization` is `auto` or what the checkpoint's config.json says.",
    "vLLM 0.32.0: config/model.py (_verify_quantization), model_loader/weight_utils.py (get_quant_config)",
    ("refusal",),
    _agreement,
    any_engine=True,
)


def _scheme(request: Request) -> Iterator[Found]:
    quantization, version = request.model.quantization, request.version
    method, bits = quantization.method, quantization.bits
    if method == "gptq" and not quantization.symmetric:
        yield Found(
            "refusal",
            f"a GPTQ checkpoint of {bits} bits with sym: false; vLLM has kernels for symmetric GPTQ only",
            advice="take a checkpoint quantised with sym: true; AWQ and compressed-tensors may be asymmetric",
        )
    if method == "awq" and bits != 4:
        yield Found(
            "refusal",
            f"an AWQ checkpoint of {bits} bits; vLLM takes 4",
            advice="take a 4-bit AWQ checkpoint, or GPTQ or compressed-tensors for 8 bits",
        )
    if method == "gptq" and quantization.group_size not in MARLIN_GROUPS:
        yield Found(
            "refusal",
            f"a GPTQ checkpoint in groups of {quantization.group_size}; vLLM takes 32, 64, 128 or one group",
            advice="take a checkpoint quantised in groups of 128",
        )
    if quantization.act_order and quantization.group_size is not None and version >= ACT_ORDER_GONE:
        name = "desc_act: true" if method == "gptq" else "actorder: group"
        yield Found(
            "refusal",
            f"the checkpoint orders its groups by activation ({name}), which {request.engine} no longer "
            "computes with; 0.29 was the last version that did",
            change={"engine.version": "0.29.0"},
            advice="take a checkpoint with desc_act: false, or with static order (actorder: static or weight)",
        )


SCHEME = Rule(
    "quantization-scheme",
    "The engine has a kernel for the checkpoint's bits, group size, zero points and order of groups.",
    "vLLM 0.32.0: quantization/auto_gptq.py and auto_awq.py (TYPE_MAP), utils/gptq_utils.py, "
    "utils/marlin_utils.py, compressed_tensors/compressed_tensors.py; activation order: 0.29 takes it, "
    "0.30 refuses it",
    ("refusal",),
    _scheme,
)


def _kernel(request: Request) -> Iterator[Found]:
    model, device = request.model, request.device
    if model.quantization.method in ("none", "bitsandbytes"):
        return
    capability = device.gpu.compute_capability
    if capability is not None and capability < LEAST_CAPABILITY:
        yield Found(
            "refusal",
            f"{device.gpu.title} has compute capability {capability[0]}.{capability[1]}; 4-bit kernels need "
            f"{LEAST_CAPABILITY[0]}.{LEAST_CAPABILITY[1]}",
            advice="take a GPU of compute capability 7.5 or more (T4, and everything since Ampere)",
        )
        return
    layers = quantized_layers(model, request.tensor_parallel)
    lacking = [layer for layer in layers if kernel_of(request, layer) is None]
    if lacking:
        sizes = ", ".join(f"{layer.name} {layer.inputs:,} × {layer.outputs:,}" for layer in lacking)
        ranks = _cpu_ranks(request)
        yield Found(
            "refusal",
            f"no kernel of the CPU takes these layers on each of {request.tensor_parallel} ranks: {sizes} "
            f"at {model.quantization.bits} bits; inputs and outputs must be multiples of 32, bits 4, groups "
            "even",
            change={} if ranks is None else {"engine.tensor_parallel_size": str(ranks)},
        )
        return
    if split_groups(model, request.tensor_parallel):
        # Refused by another rule; the kernel would only be a part of what goes wrong.
        return
    if capability is None:
        return
    if any(kernel_of(request, layer) not in FAST for layer in layers):
        yield Found(
            "warning",
            f"expect {kernel_expectation(request)}: the fast kernels do not take {model.quantization.label}",
        )
    padded = [
        f"{layer.name} {layer.inputs:,} × {layer.outputs:,}"
        for layer in layers
        if kernel_of(request, layer) == "Marlin" and not fits_tiles(layer)
    ]
    if padded:
        yield Found(
            "warning",
            f"Marlin pads {', '.join(padded)} with zeros on each GPU, at every step: its tiles take inputs "
            "by 128 and outputs by 64, or inputs by 64 and outputs by 128",
        )


def _cpu_ranks(request: Request) -> int | None:
    """The largest smaller tensor-parallel size at which every layer has a kernel."""
    quantization, capability = request.model.quantization, request.device.gpu.compute_capability
    for ranks in range(request.tensor_parallel - 1, 0, -1):
        layers = quantized_layers(request.model, ranks)
        if all(layer_kernel(layer, quantization, capability, request.version) for layer in layers):
            return ranks
    return None


KERNEL = Rule(
    "quantization-kernel",
    "The device has a kernel for every quantised layer, and a fast one: Marlin, on compute capability 9.0 "
    "Machete or Humming, on the CPU CPUWNA16LinearKernel.",
    "vLLM 0.32.0: kernels/linear/__init__.py (choose_mp_linear_kernel), "
    "kernels/linear/mixed_precision/*.py, quantization/utils/marlin_utils.py (marlin_padded_nk)",
    ("refusal", "warning"),
    _kernel,
)


def _bitsandbytes(request: Request) -> Iterator[Found]:
    if request.model.quantization.method != "bitsandbytes":
        return
    if request.version >= BNB_PLUGIN_SINCE:
        yield Found(
            "warning" if request.on_cpu else "note",
            f"{request.engine} reads bitsandbytes checkpoints only with {BNB_PLUGIN} in its environment "
            "(0.27 was the last version that could by itself)"
            + (
                "; its code names no platform, and whether it serves on the CPU is not known from it"
                * request.on_cpu
            ),
            advice=f"`up` adds it to an environment of tri-serve's; in one of your own: pip install {BNB_PLUGIN} "
            "'bitsandbytes>=0.48.1'",
        )
    else:
        yield Found(
            "note",
            f"{request.engine} reads bitsandbytes checkpoints with the package bitsandbytes in its environment",
            advice="`up` adds it to an environment of tri-serve's; in one of your own: pip install "
            "'bitsandbytes>=0.48.1'",
        )


BITSANDBYTES = Rule(
    "bitsandbytes-plugin",
    "From vLLM 0.28 on, bitsandbytes checkpoints need the package vllm-bnb-plugin in the engine's environment.",
    "vLLM 0.27.1 has quantization/bitsandbytes.py, 0.28.0 has not; vllm-bnb-plugin 0.0.3 on PyPI (entry "
    "point vllm.general_plugins, needs bitsandbytes>=0.48.1, compute capability 7.0)",
    ("warning", "note"),
    _bitsandbytes,
)

RULES = (AGREEMENT, SCHEME, KERNEL, BITSANDBYTES)
