"""Steps on their way: a live view on a terminal, one line a change anywhere else."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

import click

from tri_serve.cli.terminal import is_dumb

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Mark = Literal["running", "done", "failed", "left"]
"""``left``: nobody waits for its end any more; it neither succeeded nor failed."""
_SYMBOLS: Mapping[Mark, tuple[str, str]] = {
    "done": ("✓", "green"),
    "failed": ("✗", "red"),
    "left": ("–", "yellow"),
}
_ENDS = ("ready", "running", "stopped")
"""What a supervisor says last of a part."""
_ENGINE = "engine "
"""How a supervisor begins what it says of an engine on its way."""
_PART = re.compile(r"([a-z0-9][\w.@-]*): (.+)", re.DOTALL)
_BAR = 12
_WIDEST = 100
"""Columns of the view on a wide terminal: seconds far from what they are about are hard to read."""
_INTERRUPTED = 130


@dataclass
class Step:
    """One line of the view."""

    text: str
    mark: Mark = "running"
    begun: float = field(default_factory=time.monotonic)
    ended: float | None = None
    since: float | None = None
    """Unix time at which what ``text`` says began, if that is another time than the step's."""
    expected: float | None = None
    """Seconds that it took last time."""
    expected_from: float = 0.0
    """Monotonic time from which they count."""

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        return (self.ended or time.monotonic()) - self.begun

    def line(self) -> str:
        """What a live view shows of it now."""
        if self.mark != "running":
            return self.text
        text = self.text
        if self.since is not None:
            text += f" {max(0, int(time.time() - self.since))} s"
        if self.expected:
            text = f"{text:<14} {comparison(time.monotonic() - self.expected_from, self.expected)}"
        return text


def comparison(elapsed: float, expected: float) -> str:
    """How far a start is if it takes as long as the last one did; the seconds of both are facts.

    Past that the bar would say nothing, so there is none.
    """
    took = f"{expected:.1f} s" if expected < 9.95 else f"{expected:.0f} s"
    if elapsed > expected:
        return f"longer than last time ({took})"
    full = int(_BAR * elapsed / expected)
    return f"{'━' * full}{'─' * (_BAR - full)} took {took} last time"


class Steps(Protocol):
    """Where progress is shown. Use as a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(
        self,
        name: str,
        text: str,
        mark: Mark = "running",
        *,
        since: float | None = None,
        expected: float | None = None,
    ) -> None:
        """Add a step, or change it.

        ``since``: Unix time at which what ``text`` says began. ``expected``: seconds until the step is done, as
        it took them last time.
        """


class PlainSteps:
    """A line for each change, with the seconds since the start; to stderr."""

    def __init__(self, say: Callable[[str], None] = lambda line: click.echo(line, err=True)) -> None:
        self._say = say
        self._begun = time.monotonic()
        self._shown: dict[str, tuple[str, Mark]] = {}
        self._compared: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(
        self,
        name: str,
        text: str,
        mark: Mark = "running",
        *,
        since: float | None = None,
        expected: float | None = None,
    ) -> None:
        """Print the step if it changed."""
        if self._shown.get(name) == (text, mark):
            return
        self._shown[name] = (text, mark)
        word = {"running": "", "done": "ok ", "failed": "FAILED ", "left": ""}[mark]
        took = ""
        if mark != "running":
            self._compared.discard(name)
        elif expected and name not in self._compared:
            self._compared.add(name)
            took = f" (took {expected:.0f} s last time)"
        self._say(f"{time.monotonic() - self._begun:6.1f} s  {name}: {word}{text}{took}")


class LiveSteps:
    """All steps at once, redrawn in place on stderr; their last state stays on the screen."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        self._steps: dict[str, Step] = {}
        self._spinner = Spinner("dots")
        console = console or Console(stderr=True)
        self._width = min(console.width - len("^C") - 1, _WIDEST)  # a terminal that echoes it must not wrap
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=10, transient=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for step in self._steps.values():
            if step.mark == "running":
                step.mark, step.ended = self._end_of_running(kind), time.monotonic()
        self._live.stop()

    def _end_of_running(self, kind: type[BaseException] | None) -> Mark:
        if kind is None:
            return "done"
        # Whoever presses Ctrl-C did not see it fail; nor did what is not to blame for another step's failure.
        interrupted = issubclass(kind, KeyboardInterrupt)
        blamed = any(step.mark == "failed" for step in self._steps.values())
        return "left" if interrupted or blamed else "failed"

    def show(
        self,
        name: str,
        text: str,
        mark: Mark = "running",
        *,
        since: float | None = None,
        expected: float | None = None,
    ) -> None:
        """Change the step; the view redraws itself."""
        step = self._steps.setdefault(name, Step(text))
        if step.mark != "running" and mark == "running":
            step.begun, step.ended, step.expected = time.monotonic(), None, None
        if expected and not step.expected:
            step.expected_from = time.monotonic()
        step.text, step.mark, step.since, step.expected = text, mark, since, expected
        if mark != "running" and step.ended is None:
            step.ended = time.monotonic()

    def _table(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1), expand=True)
        table.width = self._width
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(ratio=1, overflow="fold")
        table.add_column(justify="right", no_wrap=True, min_width=7)
        for name, step in self._steps.items():
            known = _SYMBOLS.get(step.mark)
            mark: RenderableType = Text(*known) if known else self._spinner
            table.add_row(
                mark, Text(name, style="bold"), Text(step.line()), Text(f"{step.seconds:.1f} s", "dim")
            )
        return table


def steps() -> Steps:
    """The view that fits where stderr goes."""
    return LiveSteps() if sys.stderr.isatty() and not is_dumb() else PlainSteps()


class SupervisorLines:
    """Shows what a supervisor says (``PART: TEXT``) as steps, each part one.

    ``whole``: name of the step for what is said of no part. ``earlier``: seconds that a replica's last start
    took.
    """

    def __init__(self, view: Steps, whole: str, earlier: Mapping[str, float] | None = None) -> None:
        self._view = view
        self._whole = whole
        self._earlier = earlier or {}
        self.parts: dict[str, None] = {}
        """Every part that something was said of."""

    def __call__(self, line: str) -> None:
        """Show one line."""
        match = _PART.fullmatch(line)
        name, text = match.groups() if match else (self._whole, line)
        self.parts[name] = None
        if text in _ENDS:
            self._view.show(name, text, "done")
            return
        if text.startswith(_ENGINE):
            self._view.show(name, text, since=time.time(), expected=self._earlier.get(name))
        else:
            self._view.show(name, text)


@contextmanager
def goes_on(what: str, flag: str) -> Iterator[None]:
    """Ctrl-C ends the command, but not what the supervisor does: say so. ``flag`` names the release."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"{what} goes on in the background; tri-serve status{flag} shows it", err=True)
        raise click.exceptions.Exit(_INTERRUPTED) from None
