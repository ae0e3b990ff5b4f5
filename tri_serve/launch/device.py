"""Which device engines run on here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from tri_serve.errors import ResourceError

Device = Literal["cpu", "cuda"]

_DRIVER_FILES = (
    "proc/driver/nvidia/version",  # the kernel module is loaded
    "dev/nvidiactl",  # what a container sees
    "dev/dxg",  # WSL2, where the driver lives in Windows …
)
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
    hidden = environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in {"", "-1", "NoDevFiles"}
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
