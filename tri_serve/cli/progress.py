"""Steps on their way: a live view on a terminal, one line a change anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

Mark = Literal["running", "done", "failed"]
_ENDS = ("ready", "running", "stopped")
"""What a supervisor says last of a part."""
_INTERRUPTED = 130


@dataclass
class Step:
    """One line of the view."""

    text: str
    mark: Mark = "running"
    begun: float = field(default_factory=time.monotonic)
    ended: float | None = None

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        return (self.ended or time.monotonic()) - self.begun


class Steps(Protocol):
    """Where progress is shown. Use as a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, name: str, text: str, mark: Mark = "running") -> None:
        """Add a step, or change it."""


class PlainSteps:
    """A line for each change, with the seconds since the start; to stderr."""

    def __init__(self, say: Callable[[str], None] = lambda line: click.echo(line, err=True)) -> None:
        self._say = say
        self._begun = time.monotonic()
        self._shown: dict[str, tuple[str, Mark]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, name: str, text: str, mark: Mark = "running") -> None:
        """Print the step if it changed."""
        if self._shown.get(name) != (text, mark):
            self._shown[name] = (text, mark)
            word = {"running": "", "done": "ok ", "failed": "FAILED "}[mark]
            self._say(f"{time.monotonic() - self._begun:6.1f} s  {name}: {word}{text}")


class LiveSteps:
    """All steps at once, redrawn in place on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        self._steps: dict[str, Step] = {}
        self._spinner = Spinner("dots")
        self._live = Live(
            get_renderable=self._table, console=Console(stderr=True), refresh_per_second=10, transient=False
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for step in self._steps.values():
            if step.mark == "running":
                step.mark, step.ended = "done" if kind is None else "failed", time.monotonic()
        self._live.stop()

    def show(self, name: str, text: str, mark: Mark = "running") -> None:
        """Change the step; the view redraws itself."""
        step = self._steps.setdefault(name, Step(text))
        if step.mark != "running" and mark == "running":
            step.begun, step.ended = time.monotonic(), None
        step.text, step.mark = text, mark
        if mark != "running" and step.ended is None:
            step.ended = time.monotonic()

    def _table(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(ratio=1, overflow="fold")
        table.add_column(justify="right", no_wrap=True, min_width=7)
        for name, step in self._steps.items():
            mark: RenderableType = self._spinner
            if step.mark == "done":
                mark = Text("✓", style="green")
            elif step.mark == "failed":
                mark = Text("✗", style="red")
            table.add_row(
                mark, Text(name, style="bold"), Text(step.text), Text(f"{step.seconds:.1f} s", "dim")
            )
        return table


def steps() -> Steps:
    """The view that fits where stderr goes."""
    return LiveSteps() if sys.stderr.isatty() else PlainSteps()


def show_line(view: Steps, line: str) -> None:
    """Show what a supervisor says of a part (``NAME: TEXT``) as its step."""
    name, _, text = line.partition(": ")
    view.show(name, text, "done" if text in _ENDS else "running")


@contextmanager
def goes_on(what: str, flag: str) -> Iterator[None]:
    """Ctrl-C ends the command, but not what the supervisor does: say so. ``flag`` names the release."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"{what} goes on in the background; tri-serve status{flag} shows it", err=True)
        raise click.exceptions.Exit(_INTERRUPTED) from None
