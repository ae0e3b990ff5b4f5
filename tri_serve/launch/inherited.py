"""What an engine inherits of the environment that tri-serve was started in: all but what would break it."""

from __future__ import annotations

from collections.abc import Mapping

_DROPPED = frozenset(
    {
        # They point a Python at another environment's packages, or change how it runs.
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "CONDA_DEFAULT_ENV",
        "__PYVENV_LAUNCHER__",
        # Loaded into every process: a profiler or allocator meant for this shell. vLLM sets its own.
        "LD_PRELOAD",
        "LD_AUDIT",
        # The engine's port for its internal messages, not its HTTP port; two engines would collide on it.
        "VLLM_PORT",
        # Would keep an engine listening whose core has died.
        "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH",
        # Logging set up for another program.
        "VLLM_LOGGING_CONFIG_PATH",
        # Says which key clients present; each fleet has its own, set by the launch config.
        "VLLM_API_KEY",
        # What tri-serve asks of its own pydantic.
        "PYDANTIC_DISABLE_PLUGINS",
        # Belongs to supervisors of other processes: systemd's notifications are tri-serve's to send.
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
    }
)
# RAY_: what a process of Ray tells its own children. An engine below one is none of them.
_DROPPED_PREFIXES = ("PYTHON", "TRI_SERVE_", "RAY_")


def inherited_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` without the variables that belong to another Python, another server, or tri-serve itself.

    A Kubernetes Service called ``vllm`` puts ``VLLM_PORT=tcp://…``, ``VLLM_SERVICE_HOST`` and the like into
    every pod; vLLM fails on the first and warns of the others, so whatever looks like a service link goes.
    """
    return {
        name: value
        for name, value in environ.items()
        if name not in _DROPPED and not name.startswith(_DROPPED_PREFIXES) and not _is_service_link(name)
    }


def _is_service_link(name: str) -> bool:
    if not name.startswith("VLLM_"):
        return False
    return name.endswith(
        ("_SERVICE_HOST", "_SERVICE_PORT", "_TCP", "_TCP_ADDR", "_TCP_PORT", "_TCP_PROTO")
    ) or ("_SERVICE_PORT_" in name)
