"""Run with an engine environment's Python: which kernels and attention backends vLLM's own code chooses on GPUs
that are not there. Reads lists of questions as JSON, and prints the answers.

Only what the code asks the platform is made up: the device's compute capability, and that FlashAttention 3 and 4
are built in.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from vllm.platforms import current_platform
from vllm.platforms.interface import DeviceCapability, PlatformEnum

# The compiled parts of a CUDA build.
sys.modules["vllm._C_stable_libtorch"] = ModuleType("vllm._C_stable_libtorch")
INTERFACE = "vllm.vllm_flash_attn.flash_attn_interface"
sys.modules[INTERFACE] = ModuleType(INTERFACE)
sys.modules[INTERFACE].__dict__.update(
    is_fa_version_supported=lambda version: True, fa_version_unsupported_reason=lambda version: ""
)

from vllm.model_executor.kernels import linear  # noqa: E402
from vllm.model_executor.kernels.linear.mixed_precision import humming  # noqa: E402
from vllm.platforms.cuda import CudaPlatformBase  # noqa: E402
from vllm.scalar_type import scalar_types  # noqa: E402
from vllm.v1.attention.backends import flash_attn  # noqa: E402
from vllm.v1.attention.selector import AttentionSelectorConfig  # noqa: E402


@contextmanager
def device(major: int, minor: int) -> Iterator[DeviceCapability]:
    """A GPU of that compute capability in the place of this machine's CPU."""
    capability = DeviceCapability(major, minor)
    platform, number = type(current_platform), 10 * major + minor
    answers: dict[str, Any] = {
        "_enum": PlatformEnum.CUDA,
        "is_cuda": lambda *_: True,
        "is_cuda_alike": lambda *_: True,
        "is_cpu": lambda *_: False,
        "get_device_capability": lambda *_, **__: capability,
        "is_device_capability": lambda *asked, **__: asked[-1] == number,
        "is_device_capability_family": lambda *asked, **__: asked[-1] // 10 == major,
        "has_device_capability": lambda *asked, **__: number >= asked[-1],
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(platform, name, answer))
        stack.enter_context(mock.patch.object(humming, "has_humming", lambda: True))
        stack.enter_context(mock.patch.object(flash_attn, "is_fa_version_supported", lambda _: True))
        yield capability


def kernel(question: dict[str, Any]) -> str | None:
    """The kernel for a layer; None if there is none."""
    inputs, full_inputs, outputs = question["inputs"], question["full_inputs"], question["outputs"]
    config = linear.MPLinearLayerConfig(
        full_weight_shape=(full_inputs, outputs),
        partition_weight_shape=(inputs, outputs),
        weight_type=scalar_types.uint4 if question["zero_points"] else scalar_types.uint4b8,
        act_type=torch.bfloat16,
        group_size=question["group"] or -1,
        zero_points=question["zero_points"],
    )
    with device(*question["capability"]) as capability:
        try:
            return linear.choose_mp_linear_kernel(config, capability.to_int()).__name__
        except ValueError:
            return None


def attention(question: dict[str, Any]) -> list[str]:
    """The backends that would do, best first."""
    config = AttentionSelectorConfig(
        head_size=question["head"], dtype=torch.bfloat16, kv_cache_dtype=question["dtype"], block_size=None
    )
    with device(*question["capability"]) as capability:
        valid, _ = CudaPlatformBase.get_valid_backends(capability, config, 32)
    return [candidate.backend.name for candidate in valid]


questions = json.load(sys.stdin)
answers = {
    "kernels": [kernel(question) for question in questions["kernels"]],
    "attention": [attention(question) for question in questions["attention"]],
}
print(json.dumps(answers))
