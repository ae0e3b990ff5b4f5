"""The rule on the NVIDIA driver."""

from __future__ import annotations

from collections.abc import Iterator

from tri_serve.plan.constraints.request import Request, Version
from tri_serve.plan.constraints.rule import Found, Rule
from tri_serve.plan.constraints.voided import is_set

BUILT_WITH: tuple[tuple[Version, Version], ...] = (((0, 24), (13, 0)), ((0, 18), (12, 8)))
"""First version of vLLM read, and the CUDA of the wheels that it needs from PyPI, newest first: 0.32, 0.29 and 0.27
need torch 2.13.0 (CUDA 13.0), 0.24 torch 2.11.0 (13.0), 0.18 torch 2.10.0 (12.8)."""
COMPATIBILITY = "VLLM_ENABLE_CUDA_COMPATIBILITY"
"""Makes vLLM load the newer user half of the driver, from NVIDIA's package cuda-compat (0.32, env_override.py)."""
LEAST_DRIVER = {13: 580, 12: 525}
"""Branch of the Linux driver from which every CUDA of that major version runs: NVIDIA, CUDA compatibility,
"minor version compatibility"."""


def cuda_of(version: Version) -> Version:
    """The CUDA that vLLM's wheel of that version is built with."""
    return next((cuda for since, cuda in BUILT_WITH if version >= since), BUILT_WITH[-1][1])


def _driver(request: Request) -> Iterator[Found]:
    takes = request.device.driver_cuda
    if request.on_cpu or takes is None:
        return
    needs = cuda_of(request.version)
    driver = f"the driver{f' ({request.device.driver})' if request.device.driver else ''}"
    said = (
        f"{request.engine} is built with CUDA {needs[0]}.{needs[1]}, and {driver} takes CUDA up to "
        f"{takes[0]}.{takes[1]}"
    )
    least = LEAST_DRIVER[needs[0]]
    if takes[0] < needs[0] and is_set(request.spec.engine, COMPATIBILITY):
        yield Found(
            "warning",
            f"{said}; {COMPATIBILITY} is set: this works on data-centre GPUs alone, where cuda-compat for CUDA "
            f"{needs[0]} is installed and takes this driver",
        )
    elif takes[0] < needs[0]:
        yield Found(
            "refusal",
            said,
            advice=f"install a driver of branch {least} or newer; a container's own CUDA does not help, "
            "since the driver is the host's (data-centre GPUs may use the package cuda-compat with "
            f"--set engine.env.{COMPATIBILITY}=1)",
        )
    elif takes < needs:
        yield Found(
            "warning",
            f"{said}: within one major version this works from branch {least} on, but for kernels that are "
            "compiled at run time",
            advice="update the driver if the engine ends with an error about PTX",
        )


DRIVER = Rule(
    "driver",
    "The NVIDIA driver takes the CUDA that the engine is built with.",
    "package metadata of vllm and torch on PyPI; NVIDIA, CUDA compatibility (minor version compatibility)",
    ("refusal", "warning"),
    _driver,
)

RULES = (DRIVER,)
