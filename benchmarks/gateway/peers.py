"""Gets the peers that pip can install: vllm-router, pinned, in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tri_serve.places import cache_dir

VLLM_ROUTER = "vllm-router==0.1.17"


def vllm_router_environment() -> Path:
    """The environment with vllm-router; made on the first call, kept in the cache folder."""
    path = cache_dir() / "benchmarks" / VLLM_ROUTER.replace("==", "-")
    mark = path / ".complete"
    if not mark.exists():
        print(f"installing {VLLM_ROUTER} into {path} ...", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(path)], check=True)
        pip = [str(path / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", VLLM_ROUTER]
        subprocess.run(pip, check=True)
        mark.touch()
    return path
