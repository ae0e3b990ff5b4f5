"""Reading this machine's GPUs, with drivers that are made up: no GPU is needed, and none was there."""

# ruff: noqa: N802 -- the names are NVIDIA's

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tri_serve.errors import ResourceError
from tri_serve.launch.gpus import (
    GpuProcess,
    GpuReading,
    UnreadableError,
    choose,
    devices_here,
    plan_device,
    with_processes,
)
from tri_serve.launch.nvidia_smi import read_nvidia_smi
from tri_serve.launch.nvml import read_nvml

MIB = 2**20


def reading(index: int = 0, name: str = "NVIDIA L4", **other: Any) -> GpuReading:
    facts: dict[str, Any] = {
        "uuid": f"GPU-{index}aa0-0000",
        "total": 23034 * MIB,
        "reserved": 454 * MIB,
        "free": 22580 * MIB,
        "compute_capability": (8, 9),
        "driver": "580.65.06",
        "driver_cuda": (13, 0),
    }
    return GpuReading(index=index, name=name, **(facts | other))


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """The files of a driver with two GPUs."""
    for name in ("proc/driver/nvidia/version", "dev/nvidia0", "dev/nvidia1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def broken() -> tuple[GpuReading, ...]:
    raise UnreadableError("NVML: Driver/library version mismatch")


def test_a_machine_without_a_driver_has_no_gpus_and_nobody_is_asked(tmp_path: Path) -> None:
    assert devices_here({}, root=tmp_path, readers=[broken]) == ()


def test_hidden_gpus_are_none(driver: Path) -> None:
    assert devices_here({"CUDA_VISIBLE_DEVICES": ""}, root=driver, readers=[broken]) == ()


def test_the_next_way_of_reading_is_tried(driver: Path) -> None:
    found = (reading(0), reading(1))
    assert devices_here({}, root=driver, readers=[broken, lambda: found]) == found


def test_a_driver_that_does_not_answer_is_one_line_with_every_reason(driver: Path) -> None:
    with pytest.raises(
        ResourceError, match="cannot be read: NVML: Driver/library version mismatch; NVML: Driver"
    ):
        devices_here({}, root=driver, readers=[broken, broken])


@pytest.mark.parametrize(
    ("named", "chosen"),
    [
        (None, [0, 1, 2]),
        ("2,0", [2, 0]),
        ("1,7,0", [1]),
        ("0,0", [0]),
        ("-1", []),
        ("GPU-2aa", [2]),
        ("GPU-,1", []),
        ("GPU-1aa0-0000, 0", [1, 0]),
    ],
)
def test_gpus_are_chosen_as_cuda_chooses_them(named: str | None, chosen: list[int]) -> None:
    found = [reading(0), reading(1), reading(2)]
    assert [gpu.index for gpu in choose(found, named)] == chosen


def test_of_a_sliced_gpu_a_number_takes_the_first_slice_and_a_uuid_its_own() -> None:
    slices = [reading(0, uuid="MIG-1", mig=True), reading(0, uuid="MIG-2", mig=True)]
    assert [gpu.uuid for gpu in choose(slices, "0")] == ["MIG-1"]
    assert [gpu.uuid for gpu in choose(slices, "MIG-2")] == ["MIG-2"]


def test_a_program_that_computes_and_draws_counts_once_and_the_largest_comes_first() -> None:
    small, large, again = GpuProcess(1, 5, "a"), GpuProcess(2, 9, "b"), GpuProcess(1, None, "a")
    assert with_processes(reading(), [again, small, large]).processes == (large, small)


def test_what_the_driver_keeps_is_no_programs() -> None:
    gpu = reading(free=20000 * MIB)
    assert (gpu.usable, gpu.used) == (22580 * MIB, 2580 * MIB)


def test_a_known_board_is_planned_with_its_own_memory() -> None:
    device = plan_device([reading(0), reading(1, free=9 * MIB)], 2)
    assert (device.gpu.name, device.count, device.seen) == ("l4", 2, "this machine")
    # The others are there for other engines.
    assert (plan_device([reading(0), reading(1, free=9 * MIB)], 1).count) == 2
    assert (device.total, device.free) == (22580 * MIB, 9 * MIB)
    assert (device.driver_cuda, device.driver) == ((13, 0), "580.65.06")


@pytest.mark.parametrize("gpu", [reading(name="NVIDIA X1"), reading(mig=True), reading(total=11000 * MIB)])
def test_an_unknown_board_or_a_slice_has_memory_and_no_known_speed(gpu: GpuReading) -> None:
    device = plan_device([gpu], 1)
    assert (device.gpu.memory, device.gpu.compute_capability) == (gpu.total, (8, 9))
    assert (device.gpu.bandwidth, device.gpu.flops, device.gpu.link) == (0.0, 0.0, None)
    assert device.gpu.sources["bandwidth"] == "unknown: the catalogue has no such board"


@pytest.mark.parametrize(
    ("found", "message"), [(0, "no NVIDIA GPU is visible here"), (1, "2 GPUs are asked for")]
)
def test_more_gpus_than_there_are_cannot_be_planned_for(found: int, message: str) -> None:
    with pytest.raises(ResourceError, match=message):
        plan_device([reading(n) for n in range(found)], 2)


# --- NVML ---


class FakeNvmlError(Exception):
    pass


class FakeNvml:
    """As much of the module ``pynvml`` as is used, over boards that are written down."""

    NVMLError = FakeNvmlError
    NVML_DEVICE_MIG_ENABLE = 1
    nvmlMemory_v2 = 0x02000028  # noqa: N815 -- NVIDIA's name

    def __init__(self, *boards: SimpleNamespace, old: bool = False) -> None:
        self._boards, self._old = boards, old
        self.started = 0

    def nvmlInit(self) -> None:
        self.started += 1

    def nvmlShutdown(self) -> None:
        self.started -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "550.54.15"

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return 12040

    def nvmlDeviceGetCount(self) -> int:
        return len(self._boards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> SimpleNamespace:
        return self._boards[index]

    def nvmlDeviceGetCudaComputeCapability(self, board: SimpleNamespace) -> tuple[int, int]:
        return 9, 0

    def nvmlDeviceGetUUID(self, board: SimpleNamespace) -> str:
        return str(board.uuid)

    def nvmlDeviceGetName(self, board: SimpleNamespace) -> str:
        return str(board.name)

    def nvmlDeviceGetMemoryInfo(self, board: SimpleNamespace, version: int = 0) -> SimpleNamespace:
        if version and self._old:
            raise FakeNvmlError("Function Not Found")
        assert version in (0, self.nvmlMemory_v2)
        return SimpleNamespace(total=100, reserved=5, free=70)

    def nvmlDeviceGetMigMode(self, board: SimpleNamespace) -> list[int]:
        if not hasattr(board, "slices"):
            raise FakeNvmlError("Not Supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, board: SimpleNamespace) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, board: SimpleNamespace, index: int) -> SimpleNamespace:
        if index >= len(board.slices):
            raise FakeNvmlError("Not Found")
        part: SimpleNamespace = board.slices[index]
        return part

    def nvmlDeviceGetComputeRunningProcesses(self, board: SimpleNamespace) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=7, usedGpuMemory=25), SimpleNamespace(pid=8, usedGpuMemory=None)]

    def nvmlDeviceGetGraphicsRunningProcesses(self, board: SimpleNamespace) -> list[SimpleNamespace]:
        raise FakeNvmlError("Insufficient Permissions")

    def nvmlSystemGetProcessName(self, pid: int) -> str:
        if pid == 8:
            raise FakeNvmlError("Insufficient Permissions")
        return "/usr/bin/python3"


def board(**other: Any) -> SimpleNamespace:
    return SimpleNamespace(uuid="GPU-1", name="NVIDIA H100 80GB HBM3", **other)


def test_nvml_tells_all_of_a_gpu() -> None:
    library = FakeNvml(board())
    assert read_nvml(library) == (
        GpuReading(
            index=0,
            uuid="GPU-1",
            name="NVIDIA H100 80GB HBM3",
            total=100,
            reserved=5,
            free=70,
            compute_capability=(9, 0),
            driver="550.54.15",
            driver_cuda=(12, 4),
            processes=(GpuProcess(7, 25, "/usr/bin/python3"), GpuProcess(8, None, "")),
        ),
    )
    assert library.started == 0


def test_a_driver_that_does_not_know_reserved_memory_has_none() -> None:
    assert read_nvml(FakeNvml(board(), old=True))[0].reserved == 0


def test_memory_that_is_shared_with_the_cpu_is_not_known_and_the_gpu_is() -> None:
    class Unified(FakeNvml):
        def nvmlDeviceGetMemoryInfo(self, board: SimpleNamespace, version: int = 0) -> SimpleNamespace:
            raise FakeNvmlError("Not Supported")

        def nvmlSystemGetDriverVersion(self) -> str:
            raise FakeNvmlError("Not Supported")

    (gpu,) = read_nvml(Unified(board()))
    assert (gpu.total, gpu.usable, gpu.free, gpu.memory_known) == (0, 0, 0, False)
    assert (gpu.compute_capability, gpu.driver) == ((9, 0), "")
    assert not plan_device([gpu], 1).memory_known
    assert not plan_device([reading(0), gpu], 2).memory_known
    assert plan_device([reading(0), gpu], 1).memory_known


def test_slices_stand_in_the_place_of_their_gpu() -> None:
    slices = [SimpleNamespace(uuid=f"MIG-{n}", name="NVIDIA H100 80GB HBM3 MIG 3g.40gb") for n in range(2)]
    found = read_nvml(FakeNvml(board(slices=slices), board()))
    assert [(gpu.index, gpu.uuid, gpu.mig) for gpu in found] == [
        (0, "MIG-0", True),
        (0, "MIG-1", True),
        (1, "GPU-1", False),
    ]


def test_nvml_that_does_not_start_is_a_reason_and_no_traceback() -> None:
    class Broken(FakeNvml):
        def nvmlInit(self) -> None:
            raise FakeNvmlError("Driver/library version mismatch")

    with pytest.raises(UnreadableError, match="NVML: Driver/library version mismatch"):
        read_nvml(Broken())


def test_nvidias_bindings_have_every_name_that_is_asked_for() -> None:
    import pynvml

    used = [name for name in vars(FakeNvml) if not name.startswith("_")]
    assert [name for name in used if not hasattr(pynvml, name)] == []
    assert pynvml.nvmlMemory_v2 == FakeNvml.nvmlMemory_v2
    assert pynvml.NVML_DEVICE_MIG_ENABLE == FakeNvml.NVML_DEVICE_MIG_ENABLE


def test_nvidias_bindings_without_a_driver_are_a_reason_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pynvml

    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", missing)
    with pytest.raises(UnreadableError, match="NVML Shared Library Not Found"):
        read_nvml()


# --- nvidia-smi ---

BANNER = """Mon Nov 23 10:00:00 2026
| NVIDIA-SMI 580.65.06              Driver Version: 580.65.06      CUDA Version: 13.0     |
"""
GPUS = """0, GPU-1, NVIDIA A10, 23028, 454, 20000, 8.6, 580.65.06
1, GPU-2, NVIDIA A10, 23028, [N/A], 23028, 8.6, 580.65.06
"""
PROCESSES = """GPU-1, 4711, 2100, "/opt/a, b/python"
GPU-1, 4712, [N/A], [Insufficient Permissions]
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi on the PATH that answers what is in the files beside it."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\ncd "$(dirname "$0")"\n'
        'case "$1" in --query-gpu=*) cat gpus;; --query-compute-apps=*) cat processes;; *) cat banner;; esac\n'
    )
    program.chmod(0o755)
    for name, text in (("gpus", GPUS), ("processes", PROCESSES), ("banner", BANNER)):
        program.with_name(name).write_text(text)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program


def test_nvidia_smi_tells_all_of_its_gpus(smi: Path) -> None:
    first, second = read_nvidia_smi()
    assert first == GpuReading(
        index=0,
        uuid="GPU-1",
        name="NVIDIA A10",
        total=23028 * MIB,
        reserved=454 * MIB,
        free=20000 * MIB,
        compute_capability=(8, 6),
        driver="580.65.06",
        driver_cuda=(13, 0),
        processes=(GpuProcess(4711, 2100 * MIB, "/opt/a, b/python"), GpuProcess(4712, None, "")),
    )
    assert (second.reserved, second.processes) == (0, ())


def test_memory_that_nvidia_smi_does_not_tell_is_not_known(smi: Path) -> None:
    smi.with_name("gpus").write_text("0, GPU-1, NVIDIA GB10, [N/A], [N/A], [N/A], 12.1, 580.95.05\n")
    (gpu,) = read_nvidia_smi()
    assert (gpu.name, gpu.compute_capability, gpu.memory_known) == ("NVIDIA GB10", (12, 1), False)


def test_a_row_of_a_process_that_is_not_understood_costs_that_process_alone(smi: Path) -> None:
    smi.with_name("processes").write_text(
        "GPU-1, 4711, 2100, python serve.py --models a,b, c\nGPU-1, [N/A], 5, x\nNo running processes found\n"
        "\nGPU-2, 4712, 7, y\n"
    )
    first, second = read_nvidia_smi()
    assert first.processes == (GpuProcess(4711, 2100 * MIB, "python serve.py --models a,b, c"),)
    assert second.processes == (GpuProcess(4712, 7 * MIB, "y"),)


def test_what_nvidia_smi_complains_of_is_the_reason(smi: Path) -> None:
    smi.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'; exit 18\n")
    with pytest.raises(UnreadableError, match=r"^nvidia-smi: Failed to initialize NVML: Driver"):
        read_nvidia_smi()


def test_an_answer_of_another_form_is_a_reason_and_no_traceback(smi: Path) -> None:
    smi.with_name("gpus").write_text("No devices were found\n")
    with pytest.raises(UnreadableError, match="answered something unknown"):
        read_nvidia_smi()


def test_a_machine_without_nvidia_smi_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnreadableError, match="nvidia-smi is not on the PATH"):
        read_nvidia_smi()


def test_a_process_is_told_with_what_is_known_of_it() -> None:
    assert str(GpuProcess(4711, 2100 * MIB, "python")) == "pid 4711 (python), 2,100 MiB"
    assert str(GpuProcess(4711, None, "")) == "pid 4711"
