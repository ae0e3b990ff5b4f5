"""GPUs by nvidia-smi, where NVML's bindings cannot be used. MIG slices are not told apart here."""

from __future__ import annotations

import csv
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence

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
        output = run(_query("gpu", _FIELDS))
        found = [_gpu(row, cuda) for row in csv.reader(output.splitlines(), skipinitialspace=True) if row]
        processes = [*_processes(run(_query("compute-apps", _PROCESS_FIELDS)))]
    except (ValueError, IndexError) as error:
        raise UnreadableError(f"nvidia-smi answered something unknown ({error})") from error
    return tuple(with_processes(gpu, [p for uuid, p in processes if uuid == gpu.uuid]) for gpu in found)


def _query(what: str, fields: Sequence[str]) -> list[str]:
    return ["nvidia-smi", f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"]


def _gpu(row: Sequence[str], cuda: tuple[int, int] | None) -> GpuReading:
    index, uuid, name, total, reserved, free, capability, driver = (cell.strip() for cell in row)
    major, minor = capability.split(".")
    # "[N/A]" stands for memory that the GPU shares with the CPU.
    told = total.isdecimal() and free.isdecimal()
    return GpuReading(
        index=int(index),
        uuid=uuid,
        name=name,
        total=int(total) * _MIB if told else 0,
        reserved=int(reserved) * _MIB if told and reserved.isdecimal() else 0,
        free=int(free) * _MIB if told else 0,
        compute_capability=(int(major), int(minor)),
        driver=driver,
        driver_cuda=cuda,
    )


def _processes(output: str) -> Iterator[tuple[str, GpuProcess]]:
    """By GPU's UUID. A row of another form tells of nobody: what is known of GPUs does not hang on it."""
    for line in output.splitlines():
        # The name comes last, and may hold commas.
        cells = [cell.strip() for cell in line.split(",", len(_PROCESS_FIELDS) - 1)]
        if len(cells) != len(_PROCESS_FIELDS) or not cells[1].isdecimal():
            continue
        uuid, pid, used, name = cells
        # "[N/A]" stands where the driver does not tell, and "[Insufficient Permissions]".
        shown = "" if name.startswith("[") else name.strip('"')
        yield uuid, GpuProcess(int(pid), int(used) * _MIB if used.isdecimal() else None, shown)


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
