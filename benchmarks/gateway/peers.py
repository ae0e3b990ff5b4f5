"""What the comparison needs from elsewhere: Debian's programs, and vllm-router in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tri_serve.places import cache_dir

from .client import BenchmarkError

VLLM_ROUTER = "vllm-router==0.1.17"


def find_programs(names: Iterable[str]) -> dict[str, Path]:
    """Where each program is; raises BenchmarkError that names what is missing and the packages.

    The folders of system programs count too: Debian puts haproxy and nginx there, which a user's PATH leaves out.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
    found = {name: shutil.which(name, path=path) for name in names}
    if missing := [name for name, place in found.items() if place is None]:
        raise BenchmarkError(
            f"not installed: {', '.join(missing)}; on Debian and Ubuntu: apt-get install haproxy wrk nginx-light"
        )
    return {name: Path(place) for name, place in found.items() if place is not None}


def program_version(path: Path) -> str:
    """The first line of what ``-v`` says, on either stream; nginx and wrk have no other way to tell."""
    answer = subprocess.run([path, "-v"], capture_output=True, text=True, check=False)
    return (answer.stdout + answer.stderr).partition("\n")[0].strip()


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
