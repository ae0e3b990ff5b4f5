"""Steps on their way, on a terminal and elsewhere."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from rich.console import Console

from tri_serve.cli.fleet_progress import earlier_starts, keep_starts, show_fleet, start_seconds
from tri_serve.cli.progress import LiveSteps, PlainSteps, Step, SupervisorLines, comparison, goes_on
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.state import RayState, ReplicaPhase

Make = Callable[..., Any]


class Terminal:
    """One of 80 columns; ``last`` is what it shows in the end."""

    def __init__(self) -> None:
        self._file = io.StringIO()
        self.console = Console(file=self._file, force_terminal=True, width=80, color_system=None)

    def last(self) -> list[str]:
        frames = re.split(r"\r?\x1b\[2K(?:\x1b\[1A\x1b\[2K)*", self._file.getvalue())
        text = re.sub(r"\x1b\[\??[0-9;]*[a-zA-Z]", "", frames[-1])
        return [line.rstrip() for line in text.splitlines() if line.strip()]


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def test_a_start_is_compared_with_the_last_one() -> None:
    assert comparison(0, 40) == "──────────── took 40 s last time"
    assert comparison(20, 40) == "━━━━━━────── took 40 s last time"
    assert comparison(1.5, 3.04) == "━━━━━─────── took 3.0 s last time"
    assert comparison(40, 40) == "━━━━━━━━━━━━ took 40 s last time"


def test_a_start_longer_than_the_last_one_shows_no_bar() -> None:
    assert comparison(40.1, 40) == "longer than last time (40 s)"


def test_a_running_step_says_how_long_its_phase_lasts() -> None:
    assert Step("loading", since=time.time() - 12.5).line() == "loading 12 s"
    assert Step("loading", since=time.time() + 3).line() == "loading 0 s"  # a node's clock may be ahead
    assert Step("loading", mark="done", since=time.time() - 12.5).line() == "loading"


def test_the_end_stays_on_the_screen_within_80_columns(terminal: Terminal) -> None:
    with LiveSteps(terminal.console) as view:
        view.show("replica-0", "loading", since=time.time(), expected=138)
        view.show("replica-1", "ready, KV cache of 419,430 tokens, MarlinLinearKernel", "done")
    lines = terminal.last()
    assert [line[:12] for line in lines] == ["✓ replica-0 ", "✓ replica-1 "]
    assert "ready, KV cache of 419,430 tokens, MarlinLinearKernel" in lines[1]
    assert max(map(len, lines)) <= 77  # "^C" that a terminal echoes must not wrap


def test_ctrl_c_marks_nothing_as_failed(terminal: Terminal) -> None:
    with pytest.raises(KeyboardInterrupt), LiveSteps(terminal.console) as view:
        view.show("checkpoint", "fine", "done")
        view.show("replica-0", "loading")
        raise KeyboardInterrupt
    assert [line[0] for line in terminal.last()] == ["✓", "–"]


def test_a_failure_marks_what_was_under_way(terminal: Terminal) -> None:
    with pytest.raises(OSError, match="no"), LiveSteps(terminal.console) as view:
        view.show("checkpoint", "looking")
        raise OSError("no")
    assert [line[0] for line in terminal.last()] == ["✗"]


def test_a_failure_of_one_is_not_blamed_on_the_others(terminal: Terminal) -> None:
    with pytest.raises(OSError, match="no"), LiveSteps(terminal.console) as view:
        view.show("replica-0", "loading")
        view.show("replica-1", "no memory", "failed")
        raise OSError("no")
    assert [line[0] for line in terminal.last()] == ["–", "✗"]


def test_plain_steps_say_each_change_once() -> None:
    lines: list[str] = []
    with PlainSteps(lines.append) as view:
        for text in ("loading", "loading", "warming"):
            view.show("replica-0", text)
        view.show("replica-0", "ready", "done")
    assert [line[10:] for line in lines] == [
        "replica-0: loading",
        "replica-0: warming",
        "replica-0: ok ready",
    ]


def test_plain_lines_compare_once_a_start() -> None:
    lines: list[str] = []
    with PlainSteps(lines.append) as view:
        for text in ("starting", "loading"):
            view.show("replica-0", text, expected=38)
        view.show("replica-0", "ready", "done")
        view.show("replica-0", "starting", expected=37)
    assert [line[10:] for line in lines] == [
        "replica-0: starting (took 38 s last time)",
        "replica-0: loading",
        "replica-0: ok ready",
        "replica-0: starting (took 37 s last time)",
    ]


def test_what_a_supervisor_says_is_shown_by_part() -> None:
    lines: list[str] = []
    with PlainSteps(lines.append) as view:
        heard = SupervisorLines(view, "tri", {"replica-0": 38.0})
        for line in (
            "replica-0: draining and restarting",
            "replica-0: engine loading",
            "replica-0: ready",
            "gateway@10.0.0.11: running",
            "its supervisor is gone; looking for what it left behind",
            "it does not end: killing it",
        ):
            heard(line)
    assert [line[10:] for line in lines] == [
        "replica-0: draining and restarting",
        "replica-0: engine loading (took 38 s last time)",
        "replica-0: ok ready",
        "gateway@10.0.0.11: ok running",
        "tri: its supervisor is gone; looking for what it left behind",
        "tri: it does not end: killing it",
    ]
    assert list(heard.parts) == ["replica-0", "gateway@10.0.0.11", "tri"]


def test_ctrl_c_says_that_the_work_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(click.exceptions.Exit) as ended, goes_on("the change", " -r blue"):
        raise KeyboardInterrupt
    assert ended.value.exit_code == 130
    err = capsys.readouterr().err
    assert err == "the change goes on in the background; tri-serve status -r blue shows it\n"


def test_a_starting_fleet_has_a_line_for_ray_each_gateway_and_each_replica(
    fleet: Make, replica: Make, gateway: Make
) -> None:
    lines: list[str] = []
    loading = replica(1, phase=ReplicaPhase.LOADING, earlier_seconds=31.0)
    waiting = replica(2, phase=ReplicaPhase.WAITING, error="replica-2: no memory")
    with PlainSteps(lines.append) as view:
        show_fleet(view, fleet(ray=RayState(phase="starting"), replicas=(), gateways=()), {})
        show_fleet(
            view,
            fleet(replicas=(replica(0), loading, waiting, replica(3, phase=ReplicaPhase.STARTING))),
            {"replica-1": 99.0, "replica-3": 40.0},
        )
    assert [line[10:] for line in lines] == [
        "ray: starting",
        "ray: ok 127.0.0.1:26379",
        "gateway: ok http://127.0.0.1:8000",
        "replica-0: ok ready, KV cache of 419,430 tokens, MarlinLinearKernel",
        "replica-1: loading (took 31 s last time)",
        "replica-2: FAILED no memory",
        "replica-3: starting (took 40 s last time)",
    ]


def test_starts_are_kept_for_the_next_one(tmp_path: Path, fleet: Make, replica: Make) -> None:
    paths = ReleasePaths(tmp_path)
    assert earlier_starts(paths) == {}
    started = replica(0, phase_seconds={"import": 10.0, "load": 20.0})
    keep_starts(paths, fleet(replicas=(started, replica(1, phase=ReplicaPhase.LOADING))))
    assert earlier_starts(paths) == {"replica-0": 30.0}
    keep_starts(paths, fleet(replicas=(replica(1, phase_seconds={"load": 5.0}),)))
    assert earlier_starts(paths) == {"replica-0": 30.0, "replica-1": 5.0}
    assert start_seconds(fleet()) == {}


@pytest.mark.parametrize("text", ["", "[]", '{"engine_seconds": 3.2}', '{"replicas": {"replica-0": "x"}}'])
def test_a_file_of_starts_that_says_nothing_is_no_error(tmp_path: Path, text: str) -> None:
    paths = ReleasePaths(tmp_path)
    paths.timings.write_text(text)
    assert earlier_starts(paths) == {}
