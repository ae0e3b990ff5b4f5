"""``python -m benchmarks.load.memory``: does the client's memory stay flat over a million requests?

A run as ``tri-serve load run`` starts it (Locust's own processes, each with its records file, the leader with the
server's metrics pages), a closed loop at the client's ceiling against the mock engine. Each second every process's
resident (RSS) and proportional (PSS) memory is read from the kernel, beside how many requests were answered so far.

What is kept by design is left out: each process keeps the first 200,000 samples of a figure, so that percentiles
of runs of usual length are exact, and lets go of them then. The slope is that of PSS from there on, and from a
fifth of all requests on at the earliest, when the allocator has its size. It is flat where its whole 95 %
interval is below a MiB for 100,000 requests. Short forms let go sooner (``--kept``).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import click

from benchmarks.gateway.machine import Memory, facts, memory, raise_descriptor_limit, tree
from benchmarks.load.slopes import Slope, slope_of
from tri_serve.load.figures.samples import EXACT_SAMPLES
from tri_serve.load.progress import Progress
from tri_serve.load.run import LoadRun, RunOutcome, execute
from tri_serve.load.selftest import Mock, mock_engine

MOST_GROWTH = 2**20
"""Bytes for 100,000 requests: ten for each, and the smallest object of Python has sixteen."""
TOKENS = 4
_EVERY = 1.0
"""Seconds between two samples; one takes the kernel some milliseconds of the process's address space."""
_KEPT_AND_MORE = 1.15
"""Processes do not have equal shares of the requests: so much more than their number until each has let go."""
_PER = 100_000
_DAY = 86_400

_SWARM = """
import runpy, sys
from tri_serve.load.figures import samples
samples.EXACT_SAMPLES = int(sys.argv.pop(1))
runpy.run_module("tri_serve.load.swarm", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class KeepingRun(LoadRun):
    """The same program, with another number of samples that are kept."""

    kept: int = EXACT_SAMPLES

    def argv(self) -> list[str]:
        """As it is, unless the number is another one."""
        python, module, name, *rest = super().argv()
        if self.kept == EXACT_SAMPLES:
            return [python, module, name, *rest]
        return [python, "-c", _SWARM, str(self.kept), *rest]


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one time."""

    pid: int
    seconds: float
    requests: int
    """Answered by then, over all processes."""
    rss: int
    pss: int


def scenario_text(requests: int, users: int) -> str:
    """A closed loop without pauses: as fast as client and engine can. Every prompt is salted, as by default."""
    return f"""\
title: memory over many requests
arrivals: {{kind: closed, users: {users}, stagger: 1}}
workload:
  parts:
    - {{name: short, kind: written, input: {{min: 48, max: 64}}, output: {{fixed: {TOKENS}}}, languages: {{ko: 1}}}}
warm_up: 2
window: {_DAY}
requests: {requests}
slo: {{ttft: 5s, tpot: 1s}}
"""


class Watch:
    """Reads the memory of the run's processes in a thread, while its window lasts."""

    def __init__(self, engine: int, requests: int) -> None:
        self.samples: list[Sample] = []
        self.latest: Progress | None = None
        self._engine = engine
        self._requests = requests
        self._begun = time.monotonic()
        self._told = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def show(self, line: Progress) -> None:
        """What the run says of itself."""
        self.latest = line

    def _follow(self) -> None:
        while not self._ended.wait(_EVERY):
            line = self.latest
            if line is None or line.stage != "window":
                continue
            for pid in tree(os.getpid())[1:]:
                found = None if pid == self._engine else _memory_of(pid)
                if found is not None:
                    seconds = time.monotonic() - self._begun
                    self.samples.append(Sample(pid, seconds, line.completed, found.rss, found.pss))
            self._tell(line)

    def _tell(self, line: Progress) -> None:
        tenth = 10 * line.completed // self._requests
        if tenth > self._told:
            self._told = tenth
            last = {sample.pid: sample.pss for sample in self.samples}
            each = ", ".join(f"{pss / 2**20:.1f}" for _, pss in sorted(last.items()))
            rate = line.requests_per_second or 0.0
            click.echo(f"  {line.completed:>9,} requests, {rate:,.0f}/s: PSS {each} MiB")


def _memory_of(pid: int) -> Memory | None:
    try:
        return memory([pid])
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None  # ended meanwhile


@dataclass(frozen=True, slots=True)
class Found:
    """What is said of one process."""

    role: str
    rss_least: int
    rss_most: int
    pss_first: int
    """At the first sample that is judged."""
    pss_last: int
    samples: int
    """That are judged."""
    slope: Slope | None
    """Bytes of PSS for 100,000 requests of all processes."""

    @property
    def word(self) -> str:
        """flat, grows, or cannot be said."""
        return "cannot be said" if self.slope is None else self.slope.judged(MOST_GROWTH)


def judged_from(requests: int, kept: int, clients: int) -> int:
    """Requests after which every client process has let go of the samples that it kept, and after which the
    allocator has found its size: a fifth of all at the least."""
    return max(round(_KEPT_AND_MORE * kept * clients), requests // 5)


def found_of(samples: list[Sample], since: int) -> list[Found]:
    """One for each process: the first is the leader, which is the only client where there are no others."""
    pids = sorted({sample.pid for sample in samples})
    found = []
    for number, pid in enumerate(pids):
        own = [sample for sample in samples if sample.pid == pid]
        judged = [sample for sample in own if sample.requests >= since]
        found.append(
            Found(
                role="client" if len(pids) == 1 else "leader" if number == 0 else f"client {number}",
                rss_least=min(sample.rss for sample in own),
                rss_most=max(sample.rss for sample in own),
                pss_first=judged[0].pss if judged else 0,
                pss_last=judged[-1].pss if judged else 0,
                samples=len(judged),
                slope=slope_of([(sample.requests / _PER, float(sample.pss)) for sample in judged]),
            )
        )
    return found


def measure(
    requests: int, processes: int, users: int, kept: int, mock: Mock
) -> tuple[list[Sample], RunOutcome, float]:
    """One run of so many requests: samples, what came of it, and the seconds that its window took."""
    with tempfile.TemporaryDirectory(prefix="tri-serve-memory-") as folder:
        scenario = Path(folder) / "memory.yaml"
        scenario.write_text(scenario_text(requests, users), encoding="utf-8")
        run = KeepingRun(mock.url, str(scenario), Path(folder), processes=processes, kept=kept)
        with Watch(mock.pid, requests) as watch:
            outcome = execute(run, watch.show)
    return watch.samples, outcome, outcome.result.figures.window_seconds


@click.command(help=__doc__)
@click.option("--requests", default=1_000_000, show_default=True)
@click.option(
    "--processes", default=1, show_default=True, help="Of the client; a leader comes to two and more."
)
@click.option("--users", default=64, show_default=True, help="Requests that are open at any time.")
@click.option("--kept", default=EXACT_SAMPLES, show_default=True, help="Samples of a figure that are kept.")
@click.option("--output", type=click.Path(path_type=Path), help="Write every sample as JSON.")
def main(requests: int, processes: int, users: int, kept: int, output: Path | None) -> None:
    """Print the table; exit code 1 if memory grows or an answer was wrong, 2 if the interval is too wide to say."""
    raise_descriptor_limit()
    with mock_engine(ttft_ms=0.0, itl_ms=0.0) as mock:
        samples, outcome, seconds = measure(requests, processes, users, kept, mock)
    since = judged_from(requests, kept, processes)
    found = found_of(samples, since)
    answered = outcome.result.figures.outcomes["ok"]
    click.echo(
        f"{answered:,} of {requests:,} requests were answered in {seconds:,.0f} s ({answered / seconds:,.0f}/s); "
        f"judged from request {since:,} on"
    )
    click.echo(f"{'process':<10} {'RSS, MiB':>15} {'PSS then → last':>17} {'MiB for 100,000 requests':>26}")
    for one in found:
        click.echo(_line(one))
    if output is not None:
        document = {
            "machine": facts(),
            "versions": {name: version(name) for name in ("tri-serve", "locust", "gevent", "numpy")},
            "requests": requests,
            "processes": processes,
            "users": users,
            "kept": kept,
            "seconds": seconds,
            "judged_from": since,
            "bound_bytes": MOST_GROWTH,
            "found": [{**asdict(one), "word": one.word} for one in found],
            "samples": [asdict(sample) for sample in samples],
        }
        output.write_text(json.dumps(document, indent=1) + "\n")
    words = {one.word for one in found}
    if answered != requests:
        click.echo(f"BROKEN: {requests - answered:,} requests were not answered")
    for one in found:
        if one.word == "grows":
            click.echo(f"BROKEN: the memory of {one.role} grows")
    broken = answered != requests or "grows" in words or not found
    sys.exit(1 if broken else 2 if "cannot be said" in words else 0)


def _line(one: Found) -> str:
    rss = f"{one.rss_least / 2**20:.1f} – {one.rss_most / 2**20:.1f}"
    pss = f"{one.pss_first / 2**20:.1f} → {one.pss_last / 2**20:.1f}"
    slope = "–"
    if one.slope is not None:
        slope = f"{one.slope.slope / 2**20:+.3f} ± {one.slope.half_width / 2**20:.3f}"
    return f"{one.role:<10} {rss:>15} {pss:>17} {slope:>26}  {one.word}"


if __name__ == "__main__":
    main()
