"""What vLLM needs beside itself for some checkpoints, added to an engine environment when such a checkpoint comes.

bitsandbytes left vLLM with 0.28 for the package vllm-bnb-plugin, which registers itself (entry point
vllm.general_plugins). Both are put in without their dependencies: torch and vLLM are there, and must stay.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from importlib.metadata import distributions
from importlib.resources import as_file, files
from pathlib import Path

from tri_serve.errors import EngineEnvironmentError
from tri_serve.launch.commands import CommandLog
from tri_serve.launch.environment import EngineEnvironment
from tri_serve.launch.install import exclusively
from tri_serve.launch.pip import Report, pip_install
from tri_serve.plan.constraints import parse_version
from tri_serve.plan.constraints.quantization import BNB_PLUGIN, BNB_PLUGIN_SINCE

BITSANDBYTES = "bitsandbytes"
_PINNED = ("vllm", "0.32.0")
"""The engine that the pinned versions are tested with; for another the newest are taken."""
_SECONDS = 60
_FINDS = "import importlib.util as i, sys; sys.exit(0 if all(map(i.find_spec, sys.argv[1:])) else 1)"


@dataclass(frozen=True)
class Plugin:
    """Packages that an engine needs for one way of storing weights."""

    method: str
    """As config.json names it, in ``quant_method``."""
    packages: tuple[str, ...]
    """Requirements for pip, the version left open."""
    modules: tuple[str, ...]
    """What can be imported once they are there."""
    outside_image: tuple[str, ...] = ()
    """Those of the packages that the engine's own image does not have."""


def plugin_for(kind: str, version: str, method: str) -> Plugin | None:
    """What the engine needs for checkpoints whose ``quant_method`` is ``method``; None: nothing."""
    if kind != "vllm" or method != BITSANDBYTES:
        return None
    if parse_version(version) < BNB_PLUGIN_SINCE:
        return Plugin(method, ("bitsandbytes>=0.48.1",), ("bitsandbytes",))
    packages = (BNB_PLUGIN, "bitsandbytes>=0.48.1")
    return Plugin(method, packages, ("bitsandbytes", "vllm_bnb_plugin"), outside_image=(BNB_PLUGIN,))


def pinned(plugin: Plugin, version: str) -> tuple[str, ...]:
    """Its packages for pip, in the versions that are tested with vLLM ``version``, if that one is."""
    if ("vllm", version) != _PINNED:
        return plugin.packages
    pins = (files("tri_serve.launch") / "pins" / "vllm-plugins.txt").read_text(encoding="utf-8")
    versions = dict(re.findall(r"^([\w.-]+)==(\S+)", pins, flags=re.MULTILINE))
    names = (re.split(r"[<>=!~ ]", package, maxsplit=1)[0] for package in plugin.packages)
    return tuple(f"{name}=={versions[name]}" for name in names)


def has_plugin(environment: EngineEnvironment, plugin: Plugin) -> bool:
    """Whether ``environment`` has it. Of one that is a mere command nothing is known: it is taken to have it."""
    if environment.path is not None:
        wanted = {module.replace("_", "-") for module in plugin.modules}
        found = distributions(path=[str(site) for site in _sites(environment.path)])
        return wanted <= {str(each.metadata["Name"]).lower().replace("_", "-") for each in found}
    if environment.python is None:
        return True
    argv = [str(environment.python), "-c", _FINDS, *plugin.modules]
    try:
        return (
            subprocess.run(argv, capture_output=True, timeout=_SECONDS, cwd="/", check=False).returncode == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


def require_plugin(environment: EngineEnvironment, plugin: Plugin) -> None:
    """Raises EngineEnvironmentError if an environment of the user's own lacks it: nothing is put into that one."""
    if not has_plugin(environment, plugin):
        packages = shlex.join(plugin.packages)
        raise EngineEnvironmentError(
            f"the checkpoint is stored by {plugin.method}, and {environment.python} lacks "
            f"{' or '.join(plugin.modules)}",
            hint=f"{environment.python} -m pip install {packages}, or leave engine.python out: up installs them",
        )


def install_plugin(environment: EngineEnvironment, plugin: Plugin, report: Report) -> None:
    """Put it into a managed environment, unless it is there. Engines may run from it meanwhile.

    Raises EngineEnvironmentError or ResourceError, as pip's failure is explained.
    """
    assert environment.path is not None
    assert environment.python is not None
    path = environment.path
    with exclusively(path.parent / f".{path.name}.lock", report) as lock_fd:
        if has_plugin(environment, plugin):
            return
        log = path.parent / f"{path.name}-{plugin.method}.log"
        log.write_text("", encoding="utf-8")
        scratch = path / "tmp"
        scratch.mkdir(exist_ok=True)
        commands = CommandLog(log, scratch, lock_fd)
        report(f"adding {' and '.join(plugin.modules)} to {path}")
        if (environment.kind, environment.version) == _PINNED:
            with as_file(files("tri_serve.launch") / "pins" / "vllm-plugins.txt") as pins:
                flags = ("--no-deps", "--require-hashes", "--requirement", str(pins))
                pip_install(environment.python, commands, report, *flags)
        else:
            pip_install(environment.python, commands, report, "--no-deps", *plugin.packages)
        scratch.rmdir()


def _sites(path: Path) -> list[Path]:
    return list(path.glob("lib/python*/site-packages"))
