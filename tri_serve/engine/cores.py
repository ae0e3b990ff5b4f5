"""The processes of an engine beside its API server: they hold the model, and their death is the engine's."""

from __future__ import annotations

from pathlib import Path

from tri_serve.process.guard import descendants
from tri_serve.process.strays import ProcessIdentity

# vLLM names its processes "VLLM::EngineCore", "VLLM::EngineCore_DP0", "VLLM::Worker", "VLLM::Worker_TP1".
_CORE = "VLLM::EngineCor"  # the kernel keeps 15 characters of a name
_WORKER = "VLLM::Worker"


def engine_processes(pid: int) -> tuple[tuple[ProcessIdentity, ...], tuple[ProcessIdentity, ...]]:
    """The cores and the workers among the descendants of API server ``pid``."""
    cores, workers = [], []
    for found, ticks in sorted(descendants(pid).items()):
        name = _name(found)
        if name.startswith(_CORE):
            cores.append(ProcessIdentity(found, ticks))
        elif name.startswith(_WORKER):
            workers.append(ProcessIdentity(found, ticks))
    return tuple(cores), tuple(workers)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # it has ended meanwhile
        return ""
