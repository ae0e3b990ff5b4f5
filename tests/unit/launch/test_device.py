from __future__ import annotations

from pathlib import Path

import pytest

from tri_serve.errors import ResourceError
from tri_serve.launch.device import check_gpus, detect_device, gpus_of, visible_gpus


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


@pytest.fixture
def with_gpus(with_driver: Path) -> Path:
    """Four GPUs, with the files beside theirs that are none."""
    (with_driver / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia3", "nvidiactl", "nvidia-uvm", "nvidia-caps"):
        (with_driver / "dev" / name).touch()
    return with_driver


def test_every_gpu_with_a_file_is_visible(with_gpus: Path) -> None:
    assert visible_gpus({}, with_gpus) == ("0", "1", "2", "3")


def test_a_container_sees_its_own_gpus_where_proc_shows_the_machine_s(with_driver: Path) -> None:
    gpus = with_driver / "proc/driver/nvidia/gpus"
    for bus in ("0000:1b:00.0", "0000:5b:00.0", "0000:9b:00.0"):
        (gpus / bus).mkdir(parents=True)
    assert visible_gpus({}, with_driver) == ("0", "1", "2")
    (with_driver / "dev").mkdir()
    (with_driver / "dev/nvidia2").touch()
    assert visible_gpus({}, with_driver) == ("0",)


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        ("2,0", ("2", "0")),
        (" 1 , 3 ", ("1", "3")),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,1", ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "1")),
        ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f",)),
        ("1,-1,2", ("1",)),
        ("1,7,2", ("1",)),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(
    with_gpus: Path, said: str, seen: tuple[str, ...]
) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": said}, with_gpus) == seen


def test_gpus_without_files_are_visible_when_they_are_named(with_driver: Path) -> None:
    assert visible_gpus({}, with_driver) == ()
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,1"}, with_driver) == ("0", "1")


def test_a_machine_without_a_driver_has_no_gpus_whatever_is_named(tmp_path: Path) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0"}, tmp_path) == ()


def test_wsl_counts_as_one_gpu_unless_more_are_named(tmp_path: Path) -> None:
    library = tmp_path / "usr/lib/wsl/lib/libcuda.so.1"
    for file in (tmp_path / "dev/dxg", library):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert visible_gpus({}, tmp_path) == ("0",)


def test_replicas_get_neighbouring_gpus_in_the_order_given() -> None:
    assert [gpus_of(index, 1, ("2", "0", "1")) for index in range(3)] == [("2",), ("0",), ("1",)]
    assert [gpus_of(index, 2, ("3", "1", "0", "2")) for index in range(2)] == [("3", "1"), ("0", "2")]


@pytest.mark.parametrize(
    ("replicas", "parallel", "visible", "message", "hint"),
    [
        (
            *(3, 1, ("0", "1")),
            "GPUs: 3 engines need 3, and 2 are visible (0, 1); each takes most of a GPU's memory for itself, so no "
            "two share one",
            "--set fleet.replicas=2 fits",
        ),
        (
            *(2, 4, ("0", "1", "2", "3", "4")),
            "GPUs: 2 engines need 8 (4 each, engine.tensor_parallel_size), and 5 are visible (0, 1, 2, 3, 4)"
            "; each takes most of a GPU's memory for itself, so no two share one",
            "--set fleet.replicas=1 fits",
        ),
        (
            *(1, 4, ("0", "1")),
            "GPUs: 1 engine needs 4, and 2 are visible (0, 1)",
            "--set engine.tensor_parallel_size=2 fits, if the model does",
        ),
        (
            *(2, 1, ("7",)),
            "GPUs: 2 engines need 2, and 1 is visible (7); each takes most of a GPU's memory for itself, so no two "
            "share one",
            "--set fleet.replicas=1 fits",
        ),
        (1, 1, (), "GPUs: 1 engine needs 1, and none is visible", "CUDA_VISIBLE_DEVICES names GPUs that"),
    ],
)
def test_more_engines_than_gpus_are_refused_with_what_fits(
    replicas: int, parallel: int, visible: tuple[str, ...], message: str, hint: str
) -> None:
    with pytest.raises(ResourceError) as refused:
        check_gpus(replicas, parallel, visible)
    assert refused.value.message == message
    assert (refused.value.hint or "").startswith(hint)
    with pytest.raises(ResourceError):
        gpus_of(replicas - 1, parallel, visible)
