"""GPUs by nvidia-smi, where NVML's bindings cannot be used. MIG slices are not told apart here."""

from __future__ import annotations

import csv
import re
import subprocess
from collections.abc import Callable, Sequence

from tri_serve.launch.gpus import GpuProcess, GpuReading, UnreadableError, with_processes

_FIELDS = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "memory.reserved",
    "memory.free",
    "compute_cap",
    "driver_version",
)
_PROCESS_FIELDS = ("gpu_uuid", "pid", "used_memory", "process_name")
_SECONDS = 30
"""Where no daemon keeps the driver awake, it takes seconds for each GPU."""
_MIB = 2**20

Run = Callable[[Sequence[str]], str]


def read_nvidia_smi(run: Run | None = None) -> tuple[GpuReading, ...]:
    """Every GPU. ``run`` gives the output of a command. Raises UnreadableError."""
    run = run or _run
    cuda = _cuda(run(["nvidia-smi"]))
    try:
        found = [_gpu(row, cuda) for row in _rows(run, "gpu", _FIELDS)]
        processes = [(row[0], _process(row)) for row in _rows(run, "compute-apps", _PROCESS_FIELDS)]
    except (ValueError, IndexError) as error:
        raise UnreadableError(f"nvidia-smi answered something unknown ({error})") from error
    return tuple(with_processes(gpu, [p for uuid, p in processes if uuid == gpu.uuid]) for gpu in found)


def _rows(run: Run, what: str, fields: Sequence[str]) -> list[list[str]]:
    output = run(["nvidia-smi", f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"])
    return [row for row in csv.reader(output.splitlines(), skipinitialspace=True) if row]


def _gpu(row: Sequence[str], cuda: tuple[int, int] | None) -> GpuReading:
    index, uuid, name, total, reserved, free, capability, driver = (cell.strip() for cell in row)
    major, minor = capability.split(".")
    return GpuReading(
        index=int(index),
        uuid=uuid,
        name=name,
        total=int(total) * _MIB,
        reserved=int(reserved) * _MIB if reserved.isdecimal() else 0,
        free=int(free) * _MIB,
        compute_capability=(int(major), int(minor)),
        driver=driver,
        driver_cuda=cuda,
    )


def _process(row: Sequence[str]) -> GpuProcess:
    _, pid, used, name = (cell.strip() for cell in row)
    # "[N/A]" stands where the driver does not tell, and "[Insufficient Permissions]".
    return GpuProcess(
        int(pid), int(used) * _MIB if used.isdecimal() else None, "" if name.startswith("[") else name
    )


def _cuda(banner: str) -> tuple[int, int] | None:
    match = re.search(r"CUDA (?:UMD )?Version *: *(\d+)\.(\d+)", banner)
    return (int(match[1]), int(match[2])) if match else None


def _run(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise UnreadableError("nvidia-smi is not on the PATH") from error
    except OSError as error:
        raise UnreadableError(f"nvidia-smi cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise UnreadableError(f"nvidia-smi did not answer within {_SECONDS} s") from error
    if done.returncode != 0:
        words = (done.stdout + done.stderr).strip().splitlines()
        raise UnreadableError(f"nvidia-smi: {words[0] if words else f'status {done.returncode}'}")
    return done.stdout
