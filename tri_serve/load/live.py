"""What a running load shows: a view of a dozen lines on a terminal, a line every ten seconds anywhere else."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tri_serve.load.progress import Progress, Stage
from tri_serve.load.thresholds import THRESHOLDS

WIDEST = 100
"""Columns on a wide terminal: figures far from what they are about are hard to read."""
PLAIN_SECONDS = 10.0
"""Between lines where there is no terminal: a run of an hour fills a log with 360 of them."""
_TRAIL = 240
"""Figures kept for the small curves, one a second."""
_CURVE = 36
_BLOCKS = " ▁▂▃▄▅▆▇█"
_NAMES = {"itl": "ITL", "ttft": "TTFT", "tpot": "TPOT", "e2e": "end to end"}
_INDENT = 13
_ENDED: frozenset[Stage] = frozenset({"ending", "reporting"})


class View(Protocol):
    """Where progress is shown. Use as a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, progress: Progress) -> None:
        """The run has come so far."""


class LiveView:
    """Redrawn in place; its last state stays on the screen."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._width = min(
            self._console.width - len("^C") - 1, WIDEST
        )  # a terminal that echoes it must not wrap
        self._trail: deque[Progress] = deque(maxlen=_TRAIL)
        self._live = Live(
            console=self._console, auto_refresh=False, transient=False, vertical_overflow="crop"
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, progress: Progress) -> None:
        """Draw it."""
        self._trail.append(progress)
        self._live.update(Group(*screen(progress, self._trail, self._width)), refresh=True)


class PlainView:
    """A line at each new stage, and every ten seconds."""

    def __init__(
        self,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = say
        self._clock = clock
        self._said: tuple[str, str] | None = None
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, progress: Progress) -> None:
        """Say it, if there is something new or enough time has passed."""
        now, what = self._clock(), (progress.stage, progress.note)
        if what == self._said and now < self._next:
            return
        self._said, self._next = what, now + PLAIN_SECONDS
        self._say(plain_line(progress))


def view() -> View:
    """What fits where stderr goes."""
    return LiveView() if sys.stderr.isatty() else PlainView()


def plain_line(progress: Progress) -> str:
    """One line, without colours."""
    words = [f"{progress.elapsed:6.0f} s  {progress.stage}"]
    if progress.note:
        words.append(progress.note)
    if progress.scheduled:
        words.append(", ".join(text for text, _ in _counts(progress)))
        latencies = [
            f"{_NAMES[name]} p50 {p50} p99 {p99}" for name, p50, p99, told in _latencies(progress) if told
        ]
        words += latencies[:2]
        if progress.output_tokens_per_second is not None:
            words.append(f"{progress.output_tokens_per_second:,.0f} tok/s")
    return ": ".join([words[0], "; ".join(words[1:])]) if len(words) > 1 else words[0]


def screen(progress: Progress, trail: Sequence[Progress], width: int) -> list[Text]:
    """The view's lines, each at most ``width`` columns, 80 and more."""
    lines = [_head(progress, width)]
    if progress.note:
        lines.append(_row("", (progress.note, "dim")))
    if progress.stage == "preparing":
        return _fitted(lines, width)
    lines += [Text(), _row("requests", *_spaced(_counts(progress))), _row("rate", *_spaced(_rates(progress)))]
    lines += [Text(), _row("", (f"{'p50':>10}{'p99':>10}", "dim"))]
    for name, p50, p99, told in _latencies(progress):
        if told or name in ("ttft", "tpot"):
            lines.append(_row(_NAMES[name], (f"{p50:>10}{p99:>10}", "")))
    curves = _curves(trail, width - _INDENT)
    if curves:
        lines += [Text(), *curves]
    if progress.outcomes:
        failed = sorted(progress.outcomes.items(), key=lambda pair: -pair[1])
        words = [(f"{count:,} {name.replace('_', ' ')}", "yellow") for name, count in failed if count]
        lines += [Text(), _row("not ok", *_spaced(words))] if words else []
    lines += [Text(), _row("this client", *_spaced(_client(progress)))]
    return _fitted(lines, width)


def _head(progress: Progress, width: int) -> Text:
    name = progress.scenario or "load"
    if progress.stage == "preparing":
        return Text.assemble((name, "bold"), "  ", (progress.stage, "cyan"))
    times = _times(progress)
    taken = cell_len(name) + len(progress.stage) + len(times) + 8
    room = max(8, width - taken)
    share = min(1.0, progress.elapsed / progress.total) if progress.total > 0 else 0.0
    full = round(room * share)
    return Text.assemble(
        (name, "bold"), "  ", (progress.stage, "cyan"), "  ", ("━" * full, "green"), ("─" * (room - full), "dim"),
        "  ", times,
    )  # fmt: skip


def _times(progress: Progress) -> str:
    if not progress.total:
        return ""
    if progress.stage in _ENDED:
        return f"{_clock(progress.elapsed)}, {progress.open_requests:,} open"
    left = max(0.0, progress.total - progress.elapsed)
    return f"{_clock(progress.elapsed)} of {_clock(progress.total)}, {_clock(left)} left"


def _clock(seconds: float) -> str:
    whole = int(seconds + 0.5)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _counts(progress: Progress) -> list[tuple[str, str]]:
    return [
        (f"{progress.completed:,} answered", "green" if progress.completed else ""),
        (f"{progress.failed:,} failed", "red" if progress.failed else "dim"),
        (f"{progress.unsent:,} unsent", "red" if progress.unsent else "dim"),
        (f"{progress.open_requests:,} open", ""),
    ]


def _rates(progress: Progress) -> list[tuple[str, str]]:
    told = []
    if progress.requests_per_second is not None:
        due = f" of {progress.target_rate:.4g}" if progress.target_rate is not None else ""
        told.append((f"{progress.requests_per_second:.4g}{due} requests/s", ""))
    elif progress.target_rate is not None:
        told.append((f"{progress.target_rate:.4g} requests/s due", ""))
    if progress.output_tokens_per_second is not None:
        told.append((f"{progress.output_tokens_per_second:,.0f} tok/s", ""))
    if progress.goodput_share is not None:
        told.append((f"{progress.goodput_share:.1%} within the SLO", ""))
    return told or [("-", "dim")]


def _latencies(progress: Progress) -> list[tuple[str, str, str, bool]]:
    """Name, p50, p99, and whether there is any."""
    figures = [
        ("ttft", progress.ttft_p50_ms, progress.ttft_p99_ms),
        ("tpot", progress.tpot_p50_ms, progress.tpot_p99_ms),
        ("itl", None, progress.itl_p99_ms),
        ("e2e", progress.e2e_p50_ms, progress.e2e_p99_ms),
    ]
    return [(name, _ms(p50), _ms(p99), p50 is not None or p99 is not None) for name, p50, p99 in figures]


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    if value < 9.95:
        return f"{value:.1f} ms"
    if value < 999.5:
        return f"{value:.0f} ms"
    return f"{value / 1000:.2f} s" if value < 99_995 else f"{value / 1000:,.0f} s"


def _curves(trail: Sequence[Progress], room: int) -> list[Text]:
    """How the load went, in blocks: the newest on the right."""
    length = max(8, min(_CURVE, room - 24))
    rows = []
    for label, values, shown in (
        ("tok/s", [one.output_tokens_per_second for one in trail], lambda value: f"{value:,.0f}"),
        ("TTFT p50", [one.ttft_p50_ms for one in trail], _ms),
    ):
        told = [value for value in values[-length:] if value is not None]
        if len(told) > 2:
            highest = max(told)
            blocks = "".join(_BLOCKS[_level(value, highest)] for value in told)
            rows.append(_row(label, (f"{blocks:<{length}}", "cyan"), (f"  at most {shown(highest)}", "dim")))
    return rows


def _level(value: float, highest: float) -> int:
    if highest <= 0:
        return 1
    return max(1, min(8, round(8 * value / highest)))


def _client(progress: Progress) -> list[tuple[str, str]]:
    """How the client itself is, in the colours of the verdict's thresholds."""
    told = []
    if progress.dispatch_lag_p99_ms is not None:
        lag = progress.dispatch_lag_p99_ms
        told.append((f"begun {_ms(lag)} late", _colour("dispatch-lag", lag)))
    if progress.loop_lag_p99_ms is not None:
        lag = progress.loop_lag_p99_ms
        told.append((f"loop {_ms(lag)} (p99)", _colour("loop-lag", lag)))
    if progress.cpu_share is not None:
        told.append((f"{progress.cpu_share:.0%} CPU", _colour("cpu", progress.cpu_share)))
    if progress.processes:
        told.append((f"{progress.processes} process{'es' if progress.processes > 1 else ''}", "dim"))
    return told or [("-", "dim")]


def _colour(name: str, figure: float) -> str:
    threshold = next(one for one in THRESHOLDS if one.name == name)
    if figure > threshold.invalid:
        return "red"
    return "yellow" if figure > threshold.suspect else "green"


def _spaced(parts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    spaced: list[tuple[str, str]] = []
    for text, style in parts:
        spaced += [("   ", ""), (text, style)] if spaced else [(text, style)]
    return spaced


def _row(label: str, *parts: tuple[str, str]) -> Text:
    return Text.assemble((set_cell_size(label, _INDENT), "bold"), *parts)


def _fitted(lines: list[Text], width: int) -> list[Text]:
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return lines
