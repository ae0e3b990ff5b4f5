"""Making a managed engine environment: ``tri-serve engine install``.

The steps for the CPU, and why they are steps: torch first and alone, because its CPU build is not on PyPI and
has no pinned hash; then everything else with hashes and without dependencies, so that nothing can pull in a
CUDA build; then the metadata that the CPU wheel lacks; an import of the result, which also compiles what it
imports; the marker file last. Bytecode of the rest is left to the first start: it needs 1,700 files more, 3.6 s
once, where compiling all 21,000 takes 38 s of a core (measured with 0.32.0).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path

from tri_serve.errors import EngineEnvironmentError, ResourceError
from tri_serve.launch.check import check_environment
from tri_serve.launch.commands import CommandFailedError, CommandLog
from tri_serve.launch.device import Device
from tri_serve.launch.distinfo import write_vllm_metadata
from tri_serve.launch.environment import (
    MARKER,
    EngineEnvironment,
    Marker,
    engines_dir,
    environment_name,
    read_environment,
    serve_command,
)
from tri_serve.launch.pins import EXCLUDED, Pins, read_pins, requirement_names
from tri_serve.launch.pip import PackageNotFoundError, Report, pip_install

TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where PyTorch publishes its CPU builds; the variable TORCH_INDEX replaces it. Asked only when pip's own
sources lack the build."""

# Measured for 0.32.0 on the CPU: 2.2 GiB installed plus 0.7 GiB of wheels while it is made.
DISK_BYTES: Mapping[Device, int] = {"cpu": 4 * 2**30, "cuda": 20 * 2**30}
"""Bytes that must be free before an environment is made."""

# Prints what the installed engine requires here, one requirement a line, without its extras.
_LIST_REQUIREMENTS = """
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
for line in requires({distribution!r}) or ():
    requirement = Requirement(line)
    if requirement.marker is None or requirement.marker.evaluate({{"extra": ""}}):
        requirement.marker = None
        print(requirement)
"""


def install_environment(
    version: str,
    device: Device,
    data: Path,
    report: Report,
    *,
    kind: str = "vllm",
    reinstall: bool = False,
    pins_of: Callable[[str, Device, str], Pins | None] = read_pins,
) -> EngineEnvironment:
    """The managed environment of that engine, made now unless it is there as it should be.

    ``report`` gets one line a step. Two installations of the same environment wait for each other. Raises
    EngineEnvironmentError or ResourceError; then, as after Ctrl-C, no environment is left that counts as one.
    """
    pins = pins_of(kind, device, version)
    name = environment_name(kind, device, version)
    path = engines_dir(data) / name
    if not reinstall and (found := _up_to_date(path, pins)):
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusively(path.parent / f".{name}.lock", report) as lock_fd:
        if not reinstall and (found := _up_to_date(path, pins)):
            return found  # somebody else has just made it
        _require_disk(path.parent, DISK_BYTES[device])
        if path.exists():
            _require_unused(path)
            report(f"removing the unfinished or outdated environment in {path}")
            _remove(path)
        finished = False
        try:
            environment = _Builder(kind, version, device, path, report, lock_fd).build(pins)
            finished = True
        finally:
            if not finished:
                _remove(path)
    return environment


class _Builder:
    """The steps of one installation, each reported with the seconds since the start."""

    def __init__(
        self, kind: str, version: str, device: Device, path: Path, report: Report, lock_fd: int
    ) -> None:
        self._kind = kind
        self._version = version
        self._device = device
        self._path = path
        self._python = path / "bin" / "python"
        self._started = time.monotonic()
        self._report_line = report
        # Beside the environment, so that it survives when a failed one is removed.
        log = path.parent / f"{path.name}.log"
        log.write_text("", encoding="utf-8")
        self._scratch = path / "tmp"
        self._commands = CommandLog(log, self._scratch, lock_fd)

    def build(self, pins: Pins | None) -> EngineEnvironment:
        self._say(f"making {self._path}")
        self._create_venv()
        if self._device == "cpu":
            self._install_cpu(pins)
            write_vllm_metadata(self._site_packages(), self._python.parent, self._version)
        else:
            self._install_cuda()
        environment = EngineEnvironment(
            self._kind,
            self._version,
            self._device,
            self._python,
            serve_command(self._python),
            managed=True,
            path=self._path,
        )
        self._check(environment)
        marker = self._write_marker(pins)
        gibibytes = marker.bytes / 2**30
        self._say(f"ready: {marker.packages} packages, {gibibytes:.1f} GiB, torch {marker.torch}")
        finished = read_environment(self._path)
        assert finished is not None
        return finished

    def _create_venv(self) -> None:
        self._path.mkdir()
        self._scratch.mkdir()
        try:
            self._commands.run([sys.executable, "-I", "-m", "venv", str(self._path)])
        except CommandFailedError as error:
            text = "\n".join(error.lines)
            if "ensurepip" in text or "No module named venv" in text:
                raise EngineEnvironmentError(
                    f"this Python ({sys.executable}) cannot make virtual environments",
                    hint="apt install python3-venv",
                ) from error
            raise EngineEnvironmentError(
                f"python -m venv failed: {error.lines[-1] if error.lines else error}",
                hint=f"see {self._commands.log}",
            ) from error

    def _install_cpu(self, pins: Pins | None) -> None:
        if pins is not None:
            requirements = self._path / "requirements.txt"
            requirements.write_text(pins.text, encoding="utf-8")
            self._install_torch(pins.torch)
            self._pip(
                f"installing vllm {self._version} and its dependencies, each checked against its hash",
                "--no-deps",
                "--require-hashes",
                "--requirement",
                str(requirements),
                total=len(requirement_names(pins.text)),
            )
            return
        distribution = f"{self._kind}-cpu"
        self._pip(f"fetching {distribution} {self._version}", "--no-deps", f"{distribution}=={self._version}")
        listed = self._commands.run(
            [str(self._python), "-I", "-c", _LIST_REQUIREMENTS.format(distribution=distribution)]
        ).splitlines()
        wanted = [line for line in listed if _requirement_name(line) not in EXCLUDED]
        torch = next((line for line in listed if _requirement_name(line) == "torch"), "torch")
        version = torch.removeprefix("torch").removeprefix("==")
        self._install_torch(version if not version or version.endswith("+cpu") else f"{version}+cpu")
        constraints = self._path / "constraints.txt"
        constraints.write_text(f"torch=={self._installed('torch')}\n", encoding="utf-8")
        self._pip(
            "installing its dependencies (no pins ship for this version: the newest that fit)",
            "--constraint",
            str(constraints),
            *wanted,
        )
        # A dependency's own dependencies may have brought them; what the check then finds is a real fault.
        stray = [name for name in EXCLUDED if name != "torch" and self._installed(name)]
        if stray:
            self._commands.run(
                [str(self._python), "-I", "-m", "pip", "--no-input", "uninstall", "--yes", *stray]
            )

    def _install_cuda(self) -> None:
        self._pip("installing vllm (CUDA build) and its dependencies", f"{self._kind}=={self._version}")
        torch = self._installed("torch")
        if torch is not None and torch.endswith("+cpu"):
            # pip prefers 2.13.0+cpu to 2.13.0 wherever one of its sources carries both.
            raise EngineEnvironmentError(
                f"pip's sources gave torch {torch}, a CPU build, where the CUDA build is needed",
                hint="take the source of CPU builds out of pip's settings (pip config list; PIP_FIND_LINKS)",
            )

    def _install_torch(self, version: str) -> None:
        requirement = f"torch=={version}" if version else "torch"
        try:
            self._pip(f"installing {requirement}", "--no-deps", requirement)
        except PackageNotFoundError:
            index = os.environ.get("TORCH_INDEX", TORCH_INDEX)
            self._pip(
                f"installing {requirement} from {index}", "--no-deps", "--index-url", index, requirement
            )

    def _pip(self, step: str, *arguments: str, total: int | None = None) -> None:
        self._say(step)
        pip_install(self._python, self._commands, self._say, *arguments, total=total)

    def _check(self, environment: EngineEnvironment) -> None:
        self._say("importing the engine for the first time")
        found = check_environment(environment)
        # A machine that makes the environment for another one may have no GPU of its own.
        problems = [p for p in found.problems if self._device == "cpu" or p.startswith("import ")]
        if problems:
            raise EngineEnvironmentError(
                f"the environment was installed but cannot run: {problems[0]}",
                hint=f"see {self._commands.log}",
            )

    def _write_marker(self, pins: Pins | None) -> Marker:
        shutil.rmtree(self._scratch)
        installed = {d.metadata["Name"]: d.version for d in distributions(path=[str(self._site_packages())])}
        if pins is None:
            freeze = "".join(f"{name}=={version}\n" for name, version in sorted(installed.items()))
            (self._path / "requirements.txt").write_text(freeze, encoding="utf-8")
            digest = hashlib.sha256(freeze.encode()).hexdigest()
        else:
            digest = pins.digest
        marker = Marker(
            kind=self._kind,
            version=self._version,
            device=self._device,
            python=platform.python_version(),
            torch=installed.get("torch", ""),
            pins=digest,
            packages=len(installed),
            bytes=_size(self._path),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        unfinished = self._path / f"{MARKER}.tmp"
        unfinished.write_text(json.dumps(marker.model_dump(), indent=2) + "\n", encoding="utf-8")
        unfinished.replace(self._path / MARKER)
        return marker

    def _site_packages(self) -> Path:
        major, minor = sys.version_info[:2]
        return self._path / "lib" / f"python{major}.{minor}" / "site-packages"

    def _installed(self, name: str) -> str | None:
        found = next(iter(distributions(name=name, path=[str(self._site_packages())])), None)
        return found.version if found is not None else None

    def _say(self, line: str) -> None:
        self._report_line(f"{time.monotonic() - self._started:6.1f} s  {line}")


def _up_to_date(path: Path, pins: Pins | None) -> EngineEnvironment | None:
    found = read_environment(path)
    if found is None or found.marker is None:
        return None
    return found if pins is None or found.marker.pins == pins.digest else None


@contextmanager
def exclusively(lock: Path, report: Report) -> Iterator[int]:
    """Hold an advisory lock. The programs started meanwhile inherit it: see CommandLog."""
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another installation of this environment is running: waiting for it")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _require_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"the engine environment needs {needed / 2**30:.0f} GiB in {folder}, "
            f"{free / 2**30:.1f} GiB are free",
            hint="free some space, or point XDG_DATA_HOME at a larger disk",
        )


def _require_unused(path: Path) -> None:
    """Engines import parts of vLLM late: removing their environment would break them while they serve."""
    inside = f"{path}/".encode()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            program = (process / "cmdline").read_bytes()
        except OSError:  # ended meanwhile, or another user's
            continue
        if program.startswith(inside):
            raise EngineEnvironmentError(
                f"{path} is in use by process {process.name} and cannot be made anew",
                hint="stop the fleet first: tri-serve down",
            )


def _remove(path: Path) -> None:
    # Without its marker it counts as absent, should the removal be interrupted.
    (path / MARKER).unlink(missing_ok=True)
    shutil.rmtree(path)


def _requirement_name(line: str) -> str:
    end = next((i for i, char in enumerate(line) if char in "=<>!~[ ;("), len(line))
    return line[:end].lower().replace("_", "-")


def _size(folder: Path) -> int:
    """Bytes on disk, hard links and sparse files as ``du`` counts them."""
    total = 0
    for root, _, names in os.walk(folder):
        total += sum((Path(root) / name).lstat().st_blocks * 512 for name in names)
    return total
