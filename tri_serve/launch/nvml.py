"""GPUs by NVML, the driver's own library, through NVIDIA's bindings for it (nvidia-ml-py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tri_serve.launch.gpus import GpuProcess, GpuReading, UnreadableError, with_processes


def read_nvml(library: Any = None) -> tuple[GpuReading, ...]:
    """Every GPU; of one that is sliced (MIG) its slices in its place.

    ``library`` stands in for the module ``pynvml``. Raises UnreadableError.
    """
    if library is None:
        try:
            import pynvml

            library = pynvml
        except ImportError as error:
            raise UnreadableError("nvidia-ml-py is not installed") from error
    with _started(library):
        try:
            driver = str(_told(library, library.nvmlSystemGetDriverVersion) or "")
            cuda = _told(library, library.nvmlSystemGetCudaDriverVersion)
            newest = None if cuda is None else _version(cuda)
            found: list[GpuReading] = []
            for index in range(library.nvmlDeviceGetCount()):
                found += _gpu(library, index, driver, newest)
        except library.NVMLError as error:
            raise UnreadableError(f"NVML: {error}") from error
    return tuple(found)


@contextmanager
def _started(library: Any) -> Iterator[None]:
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        raise UnreadableError(f"NVML: {error}") from error
    try:
        yield
    finally:
        library.nvmlShutdown()


def _gpu(library: Any, index: int, driver: str, cuda: tuple[int, int] | None) -> Iterator[GpuReading]:
    handle = library.nvmlDeviceGetHandleByIndex(index)
    capability = tuple(library.nvmlDeviceGetCudaComputeCapability(handle))
    slices = list(_slices(library, handle))
    for part in slices or [handle]:
        total, reserved, free = _memory(library, part)
        reading = GpuReading(
            index=index,
            uuid=str(library.nvmlDeviceGetUUID(part)),
            name=str(library.nvmlDeviceGetName(part)),
            total=total,
            reserved=reserved,
            free=free,
            compute_capability=(capability[0], capability[1]),
            driver=driver,
            driver_cuda=cuda,
            mig=bool(slices),
        )
        yield with_processes(reading, [*_processes(library, part)])


def _slices(library: Any, handle: Any) -> Iterator[Any]:
    """Handles of the MIG slices; none if the GPU is whole, or of a kind that has none."""
    mode = _told(library, library.nvmlDeviceGetMigMode, handle)
    if mode is None or mode[0] != library.NVML_DEVICE_MIG_ENABLE:
        return
    for number in range(library.nvmlDeviceGetMaxMigDeviceCount(handle)):
        part = _told(library, library.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        if part is not None:
            yield part


def _memory(library: Any, handle: Any) -> tuple[int, int, int]:
    """Total, reserved and free bytes; the older call counts what is reserved as used. 0 where none is told, as of
    memory that the GPU shares with the CPU."""
    newer = _told(library, library.nvmlDeviceGetMemoryInfo, handle, library.nvmlMemory_v2)
    if newer is not None:
        return int(newer.total), int(newer.reserved), int(newer.free)
    older = _told(library, library.nvmlDeviceGetMemoryInfo, handle)
    return (0, 0, 0) if older is None else (int(older.total), 0, int(older.free))


def _processes(library: Any, handle: Any) -> Iterator[GpuProcess]:
    for ask in (library.nvmlDeviceGetComputeRunningProcesses, library.nvmlDeviceGetGraphicsRunningProcesses):
        for process in _told(library, ask, handle) or ():
            name = _told(library, library.nvmlSystemGetProcessName, process.pid)
            used = process.usedGpuMemory
            yield GpuProcess(int(process.pid), None if used is None else int(used), str(name or ""))


def _told(library: Any, ask: Callable[..., Any], *arguments: Any) -> Any:
    """The answer; None if the driver does not give it (too old, not allowed, not this kind of board)."""
    try:
        return ask(*arguments)
    except library.NVMLError:
        return None


def _version(number: int) -> tuple[int, int]:
    """NVML says 12040 for 12.4."""
    return number // 1000, number % 1000 // 10
