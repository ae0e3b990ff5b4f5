"""Engine environments: the Python or command that an engine runs from, never the package's own.

A managed one lives in ``<data>/engines/<kind>-<device>-<version>-py<python>/``. It counts as there only when
its marker file ``environment.json`` is: that is written last, so a half-made environment is an absent one.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tri_serve.errors import EngineEnvironmentError, LaunchError, UsageError
from tri_serve.launch.device import Device
from tri_serve.spec.engine import EngineSpec

MARKER = "environment.json"


class Marker(BaseModel):
    """What ``environment.json`` says of a finished environment."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: str
    version: str
    device: Device
    python: str
    """Version of Python, e.g. ``3.11.7``."""
    torch: str
    """Version of torch, with its local part, e.g. ``2.13.0+cpu``."""
    pins: str
    """SHA-256 of the requirement file that it was made from, or of its own ``pip freeze``."""
    packages: int
    bytes: int
    """Size on disk when it was made."""
    created: str
    """ISO 8601, UTC."""


@dataclass(frozen=True)
class EngineEnvironment:
    """Where an engine runs from."""

    kind: str
    version: str
    """As the spec says; of the user's own environment only ``engine check`` knows better."""
    device: Device
    python: Path | None
    """The interpreter that can import the engine; none if the environment is a command."""
    command: tuple[str, ...]
    """Starts the server; the model and the flags are appended."""
    managed: bool
    """Made by ``tri-serve engine install``."""
    path: Path | None
    """Folder of a managed environment."""
    marker: Marker | None = None


def engines_dir(data: Path) -> Path:
    """Where managed environments live."""
    return data / "engines"


def environment_name(kind: str, device: Device, version: str, python: tuple[int, int] | None = None) -> str:
    """The folder's name, e.g. ``vllm-cpu-0.32.0-py3.11``; ``python`` is the running one unless given."""
    major, minor = python or sys.version_info[:2]
    return f"{kind}-{device}-{version}-py{major}.{minor}"


def serve_command(python: Path) -> tuple[str, ...]:
    """``vllm serve`` by way of its module: needs no console script, nor a short enough ``#!`` line."""
    return (str(python), "-m", "vllm.entrypoints.cli.main", "serve")


def read_environment(path: Path) -> EngineEnvironment | None:
    """The managed environment in ``path``; None if there is none, or it is unfinished or unreadable."""
    try:
        marker = Marker.model_validate(json.loads((path / MARKER).read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError):
        return None
    python = path / "bin" / "python"
    if not os.access(python, os.X_OK):
        return None  # the system's Python that it was made with is gone
    return EngineEnvironment(
        kind=marker.kind,
        version=marker.version,
        device=marker.device,
        python=python,
        command=serve_command(python),
        managed=True,
        path=path,
        marker=marker,
    )


def list_environments(data: Path) -> list[EngineEnvironment]:
    """Every finished managed environment, by name."""
    folder = engines_dir(data)
    if not folder.is_dir():
        return []
    found = (read_environment(path) for path in sorted(folder.iterdir()) if path.is_dir())
    return [environment for environment in found if environment is not None]


def find_environment(engine: EngineSpec, data: Path, device: Device) -> EngineEnvironment:
    """The environment that ``engine`` names: the user's own Python or command, else the managed one.

    A managed environment of another Python minor version serves as well: the running one is only preferred.
    Raises EngineEnvironmentError if it is not there, UsageError for an image (the local target runs none),
    LaunchError for an engine that tri-serve does not start.
    """
    if engine.kind != "vllm":
        raise not_started(engine.kind)
    if engine.image is not None:
        raise UsageError(
            f"engine.image ({engine.image}) cannot be used by the local target, which starts plain processes",
            hint="leave engine.image out, or name engine.python or engine.command",
        )
    if engine.python is not None:
        python = _own_python(engine.python)
        return EngineEnvironment(
            engine.kind, engine.version, device, python, serve_command(python), managed=False, path=None
        )
    if engine.command is not None:
        program = shutil.which(Path(engine.command[0]).expanduser())
        if program is None:
            raise EngineEnvironmentError(
                f"engine.command: {engine.command[0]} is no program that can be run here",
                hint="give its full path, or leave engine.command out to use the managed environment",
            )
        command = (program, *engine.command[1:])
        return EngineEnvironment(engine.kind, engine.version, device, None, command, managed=False, path=None)
    preferred = environment_name(engine.kind, device, engine.version)
    wanted = (engine.kind, engine.version, device)
    fitting = [e for e in list_environments(data) if (e.kind, e.version, e.device) == wanted]
    if not fitting:
        flag = "" if device == "cuda" else " --cpu"
        raise EngineEnvironmentError(
            f"the engine environment {preferred} is not installed in {engines_dir(data)}",
            hint=f"tri-serve engine install {engine.kind}=={engine.version}{flag}",
        )
    return min(fitting, key=lambda e: e.path is None or e.path.name != preferred)


def not_started(kind: str) -> LaunchError:
    """The error for an engine that is rendered and not started."""
    return LaunchError(
        f"engine.kind: {kind} is rendered, and tri-serve starts vLLM alone",
        hint="tri-serve render shell gives the command to run yourself; or set engine.kind: vllm",
    )


def _own_python(value: str) -> Path:
    path = Path(value).expanduser()
    found = shutil.which(path)
    if found is None:
        raise EngineEnvironmentError(
            f"engine.python: {value} is no program that can be run here",
            hint="name the Python of an environment that has vllm, e.g. /opt/vllm/bin/python",
        )
    # Absolute, but not resolved: following a virtual environment's symlink would leave the environment.
    return Path(found).absolute()
