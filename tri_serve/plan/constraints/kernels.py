"""Which kernel of vLLM multiplies by quantised weights, and which checkpoints none of them takes.

The order of choice is vLLM 0.32.0's, model_executor/kernels/linear/__init__.py: on CUDA Machete (compute capability
9.0 alone), Marlin, and then slower ones; on the CPU CPUWNA16LinearKernel (on x86). Since 0.32 Humming, whose
package the wheel needs, comes before Marlin on 9.0 (quantization/utils/humming/priority.py); in 0.24 to 0.31 it
does not.
"""

from __future__ import annotations

from tri_serve.checkpoint.quantization import QuantizationFacts
from tri_serve.plan.constraints.request import Request, Version
from tri_serve.plan.constraints.shapes import CPU_MULTIPLE, RankLayer, quantized_layers

Capability = tuple[int, int]

CPU_KERNEL = "CPUWNA16LinearKernel"
SLOW = "a fallback (Exllama, Triton or Humming)"
FAST = ("Marlin", "Machete", "Humming")
MARLIN_GROUPS = (None, 32, 64, 128)
"""quantization/utils/marlin_utils.py, MARLIN_SUPPORTED_GROUP_SIZES; None: one group."""
MACHETE_GROUPS = (None, 64, 128)
"""quantization/utils/machete_utils.py, for 16-bit activations."""
MACHETE_BLOCK = (64, 128)
"""Inputs and outputs must be multiples of these (machete_utils.py, MACHETE_PREPACKED_BLOCK_SHAPE)."""
TILES = ((128, 64), (64, 128))
"""Inputs and outputs that Marlin's thread tiles take, either pair (marlin_utils.py, marlin_padded_nk)."""
HUMMING_FIRST: Version = (0, 32)
PADS_TILES: Version = (0, 24)
"""First version read in which Marlin pads other shapes; 0.18 gives them to a slower kernel."""


def kernel_expectation(request: Request) -> str:
    """The kernel that vLLM is expected to choose for the quantised layers; where they differ, which for which.

    Ends in "no kernel …" where none takes a layer.
    """
    quantization = request.model.quantization
    if quantization.method == "none":
        return "none: weights are not quantised"
    if request.spec.engine.kind != "vllm":
        return "SGLang's own choice"
    if quantization.method == "bitsandbytes":
        return f"bitsandbytes, {quantization.bits} bits"
    layers: dict[str, list[str]] = {}
    for layer in quantized_layers(request.model, request.tensor_parallel):
        kernel = kernel_of(request, layer)
        layers.setdefault(kernel or "no kernel", []).append(layer.name)
    if not layers:
        return "none: every layer is listed as not quantised"
    most = max(layers, key=lambda kernel: (kernel != "no kernel", len(layers[kernel])))
    others = "".join(
        f"; {kernel} for {', '.join(names)}" for kernel, names in layers.items() if kernel != most
    )
    return f"{most}{others}"


def kernel_of(request: Request, layer: RankLayer) -> str | None:
    """The kernel for one layer of the request; None if none takes it."""
    capability = request.device.gpu.compute_capability
    return layer_kernel(layer, request.model.quantization, capability, request.version)


def layer_kernel(
    layer: RankLayer, quantization: QuantizationFacts, capability: Capability | None, version: Version
) -> str | None:
    """The kernel for one layer of AWQ, GPTQ or compressed-tensors; None if there is none. No capability: "
    "the CPU."""
    if capability is None:
        fits = layer.inputs % CPU_MULTIPLE == 0 and layer.outputs % CPU_MULTIPLE == 0
        even = (quantization.group_size or 2) % 2 == 0
        return CPU_KERNEL if fits and even and quantization.bits == 4 else None
    if capability < (7, 5):
        return None
    if quantization.method == "awq" and not _marlin_takes(layer, quantization, version):
        # Decided before a kernel is looked for (quantization/auto_awq.py, get_quant_method).
        return "AWQ's own Triton kernel"
    if capability == (9, 0) and _machete_takes(layer, quantization):
        return "Machete"
    if capability == (9, 0) and version >= HUMMING_FIRST:
        return "Humming"
    return "Marlin" if _marlin_takes(layer, quantization, version) else SLOW


def _machete_takes(layer: RankLayer, quantization: QuantizationFacts) -> bool:
    inputs, outputs = MACHETE_BLOCK
    return (
        quantization.group_size in MACHETE_GROUPS
        and layer.inputs % inputs == 0
        and layer.outputs % outputs == 0
    )


def _marlin_takes(layer: RankLayer, quantization: QuantizationFacts, version: Version) -> bool:
    # With zero points only 4 bits; an AWQ checkpoint without them has a type that Marlin has no kernel for.
    zero_points = quantization.method == "awq" or not quantization.symmetric
    typed = quantization.bits == 4 if zero_points else quantization.bits in (4, 8)
    typed = typed and not (quantization.method == "awq" and quantization.symmetric)
    group = quantization.group_size
    whole_groups = group is None or group >= layer.full_inputs or layer.inputs % group == 0
    return (
        typed
        and group in MARLIN_GROUPS
        and whole_groups
        and (version >= PADS_TILES or (layer.inputs % 128 == 0 and layer.outputs % 64 == 0))
    )


def fits_tiles(layer: RankLayer) -> bool:
    """Whether Marlin takes the layer as it is, without padding it with zeros."""
    return any(layer.inputs % inputs == 0 and layer.outputs % outputs == 0 for inputs, outputs in TILES)
