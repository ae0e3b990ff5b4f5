"""The frame of the command line: lazy commands, errors, exit codes, speed."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

from tri_serve import __version__
from tri_serve.cli import main as frame
from tri_serve.cli.main import COMMANDS, Entry, run
from tri_serve.errors import CheckpointError, FleetError, SpecError, TriServeError

PROGRAM = (sys.executable, "-m", "tri_serve.cli.main")
SCRIPT = (sys.executable, "-c", "from tri_serve.cli.entry import main; main()")
"""What the console script does."""
HEAVY = {
    "ray",
    "vllm",
    "torch",
    "locust",
    "pydantic",
    "rich",
    "yaml",
    "requests",
    "prometheus_client",
    "numpy",
}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """A command `fail` in the table that raises the first exception of this list."""
    errors: list[BaseException] = []

    @click.command()
    def fail() -> None:
        raise errors[0]

    monkeypatch.setattr(Entry, "load", lambda _: fail)
    monkeypatch.setattr(frame, "COMMANDS", {"fail": Entry("-", "-")})
    yield errors


@pytest.mark.parametrize("name", COMMANDS)
def test_an_entry_loads_and_has_the_one_liner_of_its_command(name: str) -> None:
    command = COMMANDS[name].load()
    assert command.name == name
    assert command.get_short_help_str(limit=200) == COMMANDS[name].summary


def test_help_lists_every_command_with_its_one_liner(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for name, entry in COMMANDS.items():
        assert f"  {name} " in text
        assert entry.summary in " ".join(text.split())
    assert max(len(line) for line in text.splitlines()) <= 80


def test_help_imports_nothing_heavy() -> None:
    script = "import sys; from tri_serve.cli.main import run; run(['--help']); print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()}
    assert "click" in loaded
    assert loaded & HEAVY == set()
    assert not {name for name in done.stdout.splitlines() if name.startswith("tri_serve.spec")}


def test_help_is_there_within_250_ms_of_processor_time() -> None:
    """Processor time, not wall time: what else the machine does at the moment is not the command's."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    seconds: list[float] = []
    for _ in range(5):
        before = used()
        subprocess.run([*PROGRAM, "--help"], capture_output=True, check=True)
        seconds.append(used() - before)
    assert statistics.median(seconds) < 0.25


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"tri-serve {__version__}\n"


def test_no_command_shows_the_help_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    captured = capsys.readouterr()
    assert "Commands:" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["confg"], "error: no such command: 'confg'; did you mean config?", "hint: tri-serve --help"),
        (["zzz"], "error: no such command: 'zzz'", "hint: tri-serve --help"),
        (["--nope"], "error: No such option '--nope'.", "hint: tri-serve --help"),
        (
            ["config", "show", "--nope"],
            "error: No such option '--nope'.",
            "hint: tri-serve config show --help",
        ),
    ],
)
def test_a_mistyped_command_line_is_told_in_two_lines(
    arguments: list[str], error: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [error, hint]
    assert captured.out == ""


def test_an_error_of_ours_is_one_line_a_hint_and_its_exit_code(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(FleetError("no release is named 'x'", hint="tri-serve up -r x"))
    assert run(["fail"]) == 17
    assert capsys.readouterr().err == "error: no release is named 'x'\nhint: tri-serve up -r x\n"


def test_debug_adds_the_traceback_and_keeps_the_exit_code(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing.append(SpecError("wrong"))
    assert run(["--debug", "fail"]) == 10
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("TRI_SERVE_DEBUG", "1")
    assert run(["fail"]) == 10
    assert "Traceback" in capsys.readouterr().err


def test_an_error_of_the_system_names_its_file(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(PermissionError(13, "Permission denied", "/etc/x"))
    assert run(["fail"]) == TriServeError.exit_code
    assert capsys.readouterr().err == "error: /etc/x: Permission denied\n"


def test_a_fault_of_our_own_is_not_dressed_up(failing: list[BaseException]) -> None:
    failing.append(KeyError("bug"))
    with pytest.raises(KeyError):
        run(["fail"])


def test_interrupt_ends_with_130(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(KeyboardInterrupt())
    assert run(["fail"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_real_sigint_leaves_no_traceback(tmp_path: Path) -> None:
    fifo = tmp_path / "spec.yaml"
    os.mkfifo(fifo)
    # Reading the spec blocks until somebody writes to the pipe, so the signal meets a running command.
    with (
        subprocess.Popen(
            [*PROGRAM, "config", "show", "-f", fifo], stderr=subprocess.PIPE, text=True
        ) as child,
        fifo.open("w"),
    ):
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    assert child.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.parametrize("arguments", [["schema"], ["presets"], ["--help"]])
def test_a_reader_that_leaves_early_causes_no_noise(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*PROGRAM, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1


def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, "schema"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.stderr.splitlines()[0] == "error: No space left on device"
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("arguments", ["plan show tri-21b-awq --gpu l4", "presets", "--help"])
@pytest.mark.parametrize(
    ("streams", "says"),
    [
        (">&-", ["error: stdout is closed: there is nowhere to write to"]),
        (">&- <&-", ["error: stdout is closed: there is nowhere to write to"]),
        (">/dev/full", ["error: No space left on device"]),
        (">&- 2>&-", []),
    ],
)
def test_results_that_cannot_be_written_are_an_error_in_one_line(
    arguments: str, streams: str, says: list[str], tmp_path: Path
) -> None:
    command = f"{shlex.join(SCRIPT)} {arguments} {streams}"
    done = subprocess.run(
        ["sh", "-c", command],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        # The licence note has been shown, so that what is left is the error.
        env=os.environ | {"XDG_STATE_HOME": str(_state_with_notices(tmp_path))},
    )
    assert done.stderr.splitlines() == says
    assert done.returncode == 1


@pytest.mark.parametrize("streams", ["2>&-", "2>&- <&-"])
def test_results_are_written_where_nobody_hears_the_notes_beside_them(streams: str, tmp_path: Path) -> None:
    command = f"{shlex.join(SCRIPT)} plan show tri-21b-awq --gpu l4 {streams}"
    # Its licence note has not been shown to anybody, and would go to stderr.
    done = subprocess.run(
        ["sh", "-c", command],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"XDG_STATE_HOME": str(tmp_path)},
    )
    assert done.returncode == 0
    assert "L4" in done.stdout


def _state_with_notices(folder: Path) -> Path:
    environ = os.environ | {"XDG_STATE_HOME": str(folder)}
    subprocess.run(
        [*SCRIPT, "plan", "show", "tri-21b-awq", "--gpu", "l4"], env=environ, capture_output=True, check=True
    )
    return folder


@pytest.mark.parametrize(
    "module", ["tri_serve.cli.main", "click", "tri_serve.cli.plan", "tri_serve.plan.make"]
)
def test_an_interrupt_while_modules_are_imported_ends_with_130_and_no_traceback(module: str) -> None:
    script = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from tri_serve.cli.entry import main\n"
        "sys.argv = ['tri-serve', 'plan', 'show', 'tri-21b-awq', '--gpu', 'l4']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip(), done.stdout) == (130, "", "")


def test_the_console_script_is_the_entry_that_takes_early_interrupts() -> None:
    (script,) = entry_points(group="console_scripts", name="tri-serve")
    assert script.value == "tri_serve.cli.entry:main"


def test_what_a_file_holds_does_not_steer_the_terminal(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(CheckpointError("tensor \x1b[2J\ud800한국어 is wrong"))
    assert run(["fail"]) == 11
    assert "tensor \\x1b[2J\\ud800한국어 is wrong" in capsys.readouterr().err
