"""Rules on the type of activations."""

from __future__ import annotations

from collections.abc import Iterator

from tri_serve.plan.constraints.request import Request
from tri_serve.plan.constraints.rule import Found, Rule
from tri_serve.plan.weights import BFLOAT16_SINCE

HALF_ONLY = ("awq", "gptq")
"""Formats whose kernels take 16-bit activations alone (get_supported_act_dtypes)."""


def _dtype(request: Request) -> Iterator[Found]:
    asked, capability = request.spec.engine.dtype, request.device.gpu.compute_capability
    old = capability is not None and capability < BFLOAT16_SINCE
    method = request.model.quantization.method
    if asked == "bfloat16" and old and capability is not None:
        yield Found(
            "refusal",
            f"{request.device.gpu.title} has compute capability {capability[0]}.{capability[1]}, and "
            "bfloat16 needs 8.0",
            change={"engine.dtype": "float16"},
        )
    elif asked == "float32" and method in HALF_ONLY:
        yield Found(
            "refusal",
            f"engine.dtype is float32, and {method} is computed in float16 or bfloat16 only",
            change={"engine.dtype": "float16" if old else "bfloat16"},
        )
    elif asked == "float16" and not old and request.model.architecture.torch_dtype == "bfloat16":
        yield Found(
            "note",
            "engine.dtype is float16, and the checkpoint says bfloat16: activations above 65,504 overflow",
            change={"engine.dtype": "bfloat16"},
        )


DTYPE = Rule(
    "dtype",
    "The device and the quantization can compute in `engine.dtype`.",
    "vLLM 0.32.0: platforms/cuda.py (check_if_supports_dtype), quantization/auto_awq.py and auto_gptq.py "
    "(get_supported_act_dtypes)",
    ("refusal", "note"),
    _dtype,
    any_engine=True,
)

RULES = (DTYPE,)
