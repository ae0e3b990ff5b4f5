"""Run by an engine environment's own Python: imports the engine and prints what it found as JSON.

Standard library only, and nothing newer than Python 3.9, since it runs in other people's environments.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import json
import re
import sys
from typing import Any


def _driver_cuda() -> str | None:
    """The newest CUDA that the driver supports, e.g. "13.0"; None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _import(name: str, found: dict[str, Any]) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - whatever an import can raise is the finding itself
        words = (str(error).splitlines() or [""])[0]
        found["errors"].append(f"import {name}: {type(error).__name__}: {words}")
        return None


def probe() -> dict[str, Any]:
    """Facts by name; ``errors`` holds what failed to import."""
    found: dict[str, Any] = {"python": sys.version.split()[0], "errors": [], "driver_cuda": _driver_cuda()}
    names = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            names[re.sub(r"[-_.]+", "-", name).lower()] = distribution.version
    found["distributions"] = names
    torch = _import("torch", found)
    if torch is not None:
        found["torch"] = torch.__version__
        found["torch_cuda"] = torch.version.cuda
        found["devices"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    vllm = _import("vllm", found)
    if vllm is not None:
        found["vllm"] = getattr(vllm, "__version__", None)
        platforms = _import("vllm.platforms", found)
        if platforms is not None:
            found["platform"] = getattr(platforms.current_platform, "device_type", None)
        # Touches the compiled part and most of the engine, which `import vllm` does lazily.
        _import("vllm.entrypoints.cli.main", found)
        _import("vllm.engine.arg_utils", found)
    return found


if __name__ == "__main__":
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # this file's folder, where vllm.py is another one
    # Libraries print while they are imported; the last line of the output is ours.
    with contextlib.redirect_stdout(sys.stderr):
        result = probe()
    print(json.dumps(result))
