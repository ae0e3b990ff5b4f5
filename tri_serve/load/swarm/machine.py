"""What the client runs on, and with what."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from tri_serve import __version__
from tri_serve.load.ceiling import ceiling_path, read_ceiling
from tri_serve.load.results.model import Machine


def this_machine() -> Machine:
    """Nothing in it tells one machine of a kind from another."""
    cpu, cores = _cpu_model(), len(os.sched_getaffinity(0))
    ceiling = read_ceiling(ceiling_path(), cpu=cpu, cores=cores)
    return Machine(
        cpu=cpu,
        cores=cores,
        ceiling_requests_per_second=ceiling.requests_per_second if ceiling else None,
        ceiling_events_per_second=ceiling.events_per_second if ceiling else None,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def versions(engine: str) -> dict[str, str]:
    """Of what made the figures; ``engine`` as the server says it, or empty."""
    told = {"tri-serve": __version__, "python": platform.python_version()}
    told |= {name: metadata.version(name) for name in ("locust", "gevent", "hdrhistogram")}
    return told | ({"engine": engine} if engine else {})


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
