from __future__ import annotations

from pathlib import Path

import pytest

from tri_serve.errors import ResourceError
from tri_serve.launch.device import detect_device


@pytest.fixture
def with_driver(tmp_path: Path) -> Path:
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").touch()
    return tmp_path


def test_auto_takes_the_gpu_where_a_driver_is(with_driver: Path) -> None:
    assert detect_device("auto", environ={}, root=with_driver) == "cuda"


def test_auto_takes_the_cpu_where_no_driver_is(tmp_path: Path) -> None:
    assert detect_device("auto", environ={}, root=tmp_path) == "cpu"


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_auto_takes_the_cpu_where_the_gpus_are_hidden(with_driver: Path, hidden: str) -> None:
    assert detect_device("auto", environ={"CUDA_VISIBLE_DEVICES": hidden}, root=with_driver) == "cpu"


def test_cpu_is_taken_beside_a_gpu_when_asked_for(with_driver: Path) -> None:
    assert detect_device("cpu", environ={}, root=with_driver) == "cpu"


def test_wsl_counts_only_with_nvidia_s_library(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/dxg").touch()
    assert detect_device("auto", environ={}, root=tmp_path) == "cpu"
    library = tmp_path / "usr/lib/wsl/lib/libcuda.so.1"
    library.parent.mkdir(parents=True)
    library.touch()
    assert detect_device("auto", environ={}, root=tmp_path) == "cuda"


def test_cuda_without_a_driver_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="no NVIDIA driver"):
        detect_device("cuda", environ={}, root=tmp_path)


def test_cuda_with_hidden_gpus_is_an_error_that_says_so(with_driver: Path) -> None:
    with pytest.raises(ResourceError, match="CUDA_VISIBLE_DEVICES"):
        detect_device("cuda", environ={"CUDA_VISIBLE_DEVICES": ""}, root=with_driver)
