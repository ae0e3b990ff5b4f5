"""One run as a child process: Locust with our locustfile, its progress through a pipe, its files in a folder."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from tri_serve.errors import LoadBrokeOffError, TriServeError, UsageError
from tri_serve.load.naming import run_name
from tri_serve.load.progress import Ended, Failed, Progress, parse_line
from tri_serve.load.results.model import RunResult
from tri_serve.load.scenario.models import ClosedLoop, Lengths, Scenario, Steps
from tri_serve.places import state_dir

PROGRESS_FD = "TRI_SERVE_LOAD_PROGRESS_FD"
LOG_NAME = "locust.log"
INTERRUPTED = 130
"""128 + SIGINT, as shells report a program that Ctrl-C ended."""
_OWN_VARIABLES = ("LOCUST_", "TRI_SERVE_LOAD_")
"""A command line says everything; what is set for plain Locust must not change it."""

_REQUESTS_A_PROCESS = 150.0
_EVENTS_A_PROCESS = 10_000.0
"""Well under what one process takes (tri-serve load selftest says it): its stamps stay true to parts of a ms."""
_STREAM_TOKENS = 50.0
"""A second, of one user's stream in a closed loop: a guess, to choose a number of processes by."""


@dataclass(frozen=True)
class LoadRun:
    """What is to be run."""

    url: str
    scenario: str
    """Name or path."""
    folder: Path
    model: str | None = None
    sets: tuple[str, ...] = ()
    """KEY=VALUE on top of the scenario."""
    slo: str = ""
    processes: int = 1
    tokenizer: Path | None = None
    scrape: tuple[str, ...] = ()
    """NAME=URL of metrics pages."""
    records: str = "full"
    save_vllm_json: bool = False
    save_detailed: bool = False
    """vllm.json with an entry for each request."""
    ca_file: Path | None = None
    insecure: bool = False
    token_ids: bool = False
    no_real_time: bool = False
    release: str | None = None
    replicas: int | None = None

    def argv(self) -> list[str]:
        """Locust's command line. It holds no key."""
        words = [sys.executable, "-m", "tri_serve.load.swarm", "--headless", "--only-summary"]
        words += ["--host", self.url, "--scenario", self.scenario, "--results", str(self.folder)]
        words += ["--records", self.records]
        for name, value in (
            ("--model", self.model),
            ("--slo", self.slo),
            ("--tokenizer", self.tokenizer),
            ("--ca-file", self.ca_file),
            ("--release", self.release),
            ("--replicas", self.replicas),
        ):
            # One word each, or a value that begins with a dash would be taken for an option.
            words += [f"{name}={value}"] if value else []
        words += [f"--set={entry}" for entry in self.sets] + [f"--scrape={entry}" for entry in self.scrape]
        for name, on in (
            ("--save-vllm-json", self.save_vllm_json),
            ("--save-detailed", self.save_detailed),
            ("--insecure", self.insecure),
            ("--token-ids", self.token_ids),
            ("--no-real-time", self.no_real_time),
        ):
            words += [name] if on else []
        if self.processes > 1:
            port = str(_free_port())
            words += ["--processes", str(self.processes), "--master-bind-host", "127.0.0.1"]
            words += ["--master-bind-port", port, "--master-port", port]
        return words


@dataclass(frozen=True)
class RunOutcome:
    """A run that left a result, whole or in part."""

    result: RunResult
    path: Path | None
    """Of result.json; None where it could not be written."""
    exit_code: int
    remarks: tuple[str, ...] = field(default=())


def new_folder(scenario: str, output: Path | None) -> Path:
    """The folder of a run: ``output``, or a new one under the user's state folder. Raises UsageError."""
    folder = output.absolute() if output is not None else state_dir() / "loads" / run_name(scenario)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output-dir {folder}: {error.strerror or error}") from error
    if (folder / "result.json").exists():
        raise UsageError(
            f"--output-dir {folder}: there is a result already", hint="name another folder, or remove it"
        )
    return folder


def processes_for(scenario: Scenario, cores: int) -> int:
    """How many processes the client takes so that none of them is near its limit, on a machine of ``cores``."""
    rate, tokens = heaviest_load(scenario)
    share = max(rate / _REQUESTS_A_PROCESS, rate * tokens / _EVENTS_A_PROCESS)
    # The server may be on the same machine, and the leading process needs a little of a core too.
    return max(1, min(math.ceil(share), cores - 1))


def heaviest_load(scenario: Scenario) -> tuple[float, float]:
    """Requests a second at the scenario's highest rate, and tokens of its longest usual answer."""
    arrivals = scenario.arrivals
    tokens = float(max(_longest(part.output) for part in scenario.workload.parts))
    if isinstance(arrivals, ClosedLoop):
        return arrivals.users * _STREAM_TOKENS / max(tokens, 1.0), tokens
    if isinstance(arrivals, Steps):
        return max(step.rate for step in arrivals.steps), tokens
    return max(getattr(arrivals, name, 0.0) for name in ("rate", "to_rate", "spike_rate")), tokens


def _longest(lengths: Lengths | None) -> int:
    return 0 if lengths is None else lengths.fixed or lengths.median or lengths.max or 0


def execute(
    run: LoadRun, show: Callable[[Progress], None], environ: Mapping[str, str] = os.environ
) -> RunOutcome:
    """Run it. Ctrl-C ends it early with what was measured; a second one ends it at once.

    Raises what the child says where it says why it cannot, LoadBrokeOffError where it does not.
    """
    log = run.folder / LOG_NAME
    with _child(run, log, environ) as (child, lines):
        last, interrupted = _follow(child, lines, show)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            _kill(child)
    if isinstance(last, Failed):
        raise _as_error(last)
    if last is None and interrupted:
        raise _as_error(Failed(error="ended by Ctrl-C before anything was measured", exit_code=INTERRUPTED))
    if last is None:
        raise LoadBrokeOffError(
            f"the load generator ended without a result (status {child.returncode})", hint=f"its log: {log}"
        )
    if last.inline is not None:
        result = RunResult.model_validate(last.inline)
    else:
        result = RunResult.model_validate_json(Path(last.result).read_bytes())
    return RunOutcome(result, Path(last.result) if last.result else None, last.exit_code, last.remarks)


@contextmanager
def _child(
    run: LoadRun, log: Path, environ: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    kept = {name: value for name, value in environ.items() if not name.startswith(_OWN_VARIABLES)}
    reading, writing = os.pipe()
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(os.fdopen(reading, "rb"))
        try:
            output: int | IO[bytes] = stack.enter_context(log.open("wb"))
        except OSError:  # the run says itself that nothing can be written here
            output = subprocess.DEVNULL
        try:
            child = subprocess.Popen(
                run.argv(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(writing,),
                env={**kept, PROGRESS_FD: str(writing)},
                # Ctrl-C is for this process, which tells the child once.
                start_new_session=True,
            )
        finally:
            os.close(writing)
        try:
            yield child, lines
        finally:
            if child.poll() is None:
                _kill(child)


def _follow(
    child: subprocess.Popen[bytes], lines: IO[bytes], show: Callable[[Progress], None]
) -> tuple[Ended | Failed | None, bool]:
    """Shows progress until the child has said its last line, or ended; whether Ctrl-C was pressed meanwhile."""
    last: Ended | Failed | None = None
    interrupted = False
    while True:
        try:
            line = lines.readline()
            if not line:
                return last, interrupted
            said = _parsed(line)
            if isinstance(said, Progress):
                show(said)
            elif said is not None:
                last = said
        except KeyboardInterrupt:
            if interrupted:
                _kill(child)
                raise
            interrupted = True
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGINT)


def _parsed(line: bytes) -> Progress | Ended | Failed | None:
    try:
        return parse_line(line)
    except ValidationError:
        return None  # cut off by a child that was killed


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _as_error(said: Failed) -> TriServeError:
    error = TriServeError(said.error, hint=said.hint)
    error.exit_code = said.exit_code
    return error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
