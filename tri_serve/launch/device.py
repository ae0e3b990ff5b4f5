"""Which device engines run on here, and which of its GPUs each of them gets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tri_serve.errors import ResourceError

Device = Literal["cpu", "cuda"]

_DRIVER_FILES = (
    "proc/driver/nvidia/version",  # the kernel module is loaded
    "dev/nvidiactl",  # what a container sees
    "dev/dxg",  # WSL2, where the driver lives in Windows …
)
_GPU_FILE = re.compile(r"nvidia\d+")
_NO_DEVICE = frozenset({"", "-1", "NoDevFiles"})
_WSL_LIBRARY = "usr/lib/wsl/lib/libcuda.so.1"  # … and this says that it is NVIDIA's


def detect_device(
    requested: Literal["auto", "cuda", "cpu"],
    *,
    environ: Mapping[str, str] = os.environ,
    root: Path = Path("/"),
) -> Device:
    """``auto`` becomes ``cuda`` if an NVIDIA driver is on this machine and its GPUs are not hidden.

    Looks at files alone: no library is loaded and no program run. ``root`` is where the file system starts.
    Raises ResourceError when ``cuda`` is asked for and cannot be had.
    """
    if requested == "cpu":
        return "cpu"
    hidden = _named_gpus(environ) == ()
    if _driver_present(root) and not hidden:
        return "cuda"
    if requested == "cuda":
        reason = "CUDA_VISIBLE_DEVICES hides every GPU" if hidden else "no NVIDIA driver is loaded here"
        raise ResourceError(
            f"engine.device is cuda, but {reason}",
            hint="set engine.device: cpu (or auto) to run on the CPU",
        )
    return "cpu"


def _driver_present(root: Path) -> bool:
    kernel_module, container, wsl = (root / name for name in _DRIVER_FILES)
    return kernel_module.exists() or container.exists() or (wsl.exists() and (root / _WSL_LIBRARY).exists())


def visible_gpus(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> tuple[str, ...]:
    """The GPUs that engines may use here, as CUDA_VISIBLE_DEVICES names them; none on a machine without.

    What CUDA_VISIBLE_DEVICES says is taken in its order, indices and UUIDs alike, and ends where CUDA stops
    reading it: at an entry that stands for no device. Without it every GPU counts that the driver has a file
    for. Looks at files alone, as ``detect_device`` does: nvidia-smi is not in every image, and takes seconds
    where no daemon keeps the driver awake. Under WSL, whose driver has no such files, one GPU is counted;
    CUDA_VISIBLE_DEVICES=0,1 says that there are more.
    """
    if not _driver_present(root):
        return ()
    named, count = _named_gpus(environ), _gpu_count(root)
    if named is None:
        return tuple(str(number) for number in range(count))
    beyond = (place for place, name in enumerate(named) if name.isdecimal() and 0 < count <= int(name))
    return named[: next(beyond, None)]


def gpus_of(index: int, tensor_parallel: int, visible: Sequence[str]) -> tuple[str, ...]:
    """The GPUs of replica ``index`` (from 0): ``tensor_parallel`` of ``visible`` side by side, since those are
    the ones that a machine's links join best.

    Raises ResourceError if there are not that many.
    """
    check_gpus(index + 1, tensor_parallel, visible)
    first = index * tensor_parallel
    return tuple(visible[first : first + tensor_parallel])


def check_gpus(
    replicas: int, tensor_parallel: int, visible: Sequence[str], *, key: str = "fleet.replicas"
) -> None:
    """Raises ResourceError if so many replicas need more GPUs than are visible.

    ``key`` of the spec is what said how many; the hint names it.
    """
    needed, found = replicas * tensor_parallel, len(visible)
    if needed <= found:
        return
    engines = "1 engine needs" if replicas == 1 else f"{replicas} engines need"
    each = f" ({tensor_parallel} each, engine.tensor_parallel_size)" if tensor_parallel > 1 < replicas else ""
    there = f"{found} are visible ({', '.join(visible)})" if found != 1 else f"1 is visible ({visible[0]})"
    if fitting := found // tensor_parallel:
        hint = f"--set {key}={fitting} fits"
    elif found:
        hint = f"--set engine.tensor_parallel_size={found} fits, if the model does"
    else:
        hint = "CUDA_VISIBLE_DEVICES names GPUs that the driver shows no files of"
    why = (
        "; each takes most of a GPU's memory for itself, so no two share one"
        if replicas > 1 and found
        else ""
    )
    raise ResourceError(
        f"GPUs: {engines} {needed}{each}, and {there if found else 'none is visible'}{why}", hint=hint
    )


def _named_gpus(environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """What CUDA_VISIBLE_DEVICES names; None if it is not set."""
    said = environ.get("CUDA_VISIBLE_DEVICES")
    if said is None:
        return None
    names = [name.strip() for name in said.split(",")]
    nothing = (place for place, name in enumerate(names) if name in _NO_DEVICE)
    return tuple(names[: next(nothing, None)])


def _gpu_count(root: Path) -> int:
    """GPUs by the driver's files.

    /dev comes first: a container has the files of its own GPUs there, where /proc shows all of the machine's.
    It may be empty until the driver is first used.
    """
    dev, proc = root / "dev", root / "proc/driver/nvidia/gpus"
    count = sum(1 for file in dev.glob("nvidia*") if _GPU_FILE.fullmatch(file.name))
    if count == 0 and proc.is_dir():
        count = sum(1 for _ in proc.iterdir())
    if count == 0 and (root / "dev/dxg").exists():
        count = 1
    return count
