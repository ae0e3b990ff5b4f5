"""``tri-serve load selftest``: raises the load on a mock engine until the client's own figures are doubted."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError

from tri_serve import __version__
from tri_serve.errors import MissingExtraError, TriServeError
from tri_serve.load.ceiling import Ceiling, Kind, Trial
from tri_serve.load.results.model import RunResult

TTFT_MS = 50.0
ITL_MS = 10.0
"""A quick server: what the client adds must show beside it."""
SHORT, LONG = 8, 200
"""Tokens of an answer: where requests are raised, and where events are."""
FIRST_RATE: Mapping[Kind, float] = {"requests": 50.0, "events": 10.0}
MOST_RATE: Mapping[Kind, float] = {"requests": 6_400.0, "events": 1_280.0}
"""Requests a second; far above what one process of Python can do."""
REFINEMENTS = 2
"""Rates tried between the last believed and the first that was not: the ceiling is then known to a fifth."""
WARM_UP_SECONDS, WINDOW_SECONDS = 2.5, 5.0
"""A long answer takes 2.0 s."""
FULL = 0.9
"""CPU share from which on the mock engine is what could not go on."""
SHORT_OF_CPU = 0.1
"""Of the time. What the client and its mock engine take from each other is less, unless there is but one core."""
_RUN_SECONDS = 120.0
_TICKS = 100
"""``/proc/PID/stat`` counts CPU time in hundredths of a second on every Linux that Python runs on (USER_HZ)."""

Try = Callable[[Kind, float], Trial]
Say = Callable[[str], None]


class SelftestError(TriServeError):
    """The self-test could not be done."""


def climb(kind: Kind, attempt: Try) -> tuple[list[Trial], float, bool]:
    """Double the rate until it is not believed, then look between.

    Returns the trials, the highest believed rate (0: none), and whether the client can do more than that.
    """
    trials: list[Trial] = []

    def believed(rate: float) -> bool:
        trials.append(attempt(kind, rate))
        if not trials[-1].believed and not trials[-1].mock_was_full:
            # Once more: something else on the machine for a moment is no ceiling.
            trials.append(attempt(kind, rate))
        return trials[-1].believed

    good, bad, rate = 0.0, math.inf, FIRST_RATE[kind]
    while rate <= MOST_RATE[kind] and math.isinf(bad):
        good, bad = (rate, bad) if believed(rate) else (good, rate)
        rate *= 2
    if math.isinf(bad):
        return trials, good, True
    for _ in range(REFINEMENTS if good else 0):
        rate = math.sqrt(good * bad)
        good, bad = (rate, bad) if believed(rate) else (good, rate)
    return trials, good, any(trial.mock_was_full for trial in trials)


def measure_ceiling(attempt: Try, *, cpu: str, cores: int, now: datetime) -> Ceiling:
    """Both ladders."""
    requests, rate, more_requests = climb("requests", attempt)
    events, streams, more_events = climb("events", attempt)
    best = max((one for one in events if one.believed), key=lambda one: one.events_per_second, default=None)
    return Ceiling(
        measured_at=now.astimezone(UTC).isoformat(timespec="seconds"),
        version=__version__,
        cpu=cpu,
        cores=cores,
        requests_per_second=rate,
        events_per_second=best.events_per_second if best is not None and streams else 0.0,
        requests_at_least=more_requests,
        events_at_least=more_events,
        trials=(*requests, *events),
    )


def trial_of(kind: Kind, result: RunResult, mock_cpu_share: float | None) -> Trial:
    """What a run of the client says of the client."""
    evidence, figures = result.evidence, result.figures
    own = [reason for reason in result.verdict.reasons if reason.cause == "client"]
    server = [reason for reason in result.verdict.reasons if reason.cause == "server"]
    full = mock_cpu_share is not None and mock_cpu_share >= FULL
    ttft = figures.latencies.get("ttft")
    sent = figures.outcomes.get("ok", 0) > 0
    return Trial(
        kind=kind,
        requests_per_second=figures.scheduled_rate,
        events_per_second=figures.steady.output_tokens_per_second,
        open_requests=evidence.in_flight_mean or 0.0,
        dispatch_lag_p99_ms=evidence.dispatch_lag_p99_ms,
        loop_lag_p99_ms=evidence.loop_lag_p99_ms,
        cpu_share=max(evidence.cpu_shares) if evidence.cpu_shares else None,
        cpu_wait_share=evidence.cpu_wait_share,
        mock_cpu_share=mock_cpu_share,
        ttft_p50_above_ms=ttft.p50 - TTFT_MS if ttft is not None else None,
        believed=sent and not own and not server and not full,
        doubts=tuple(reason.said for reason in (*own, *server)),
        mock_was_full=full,
    )


def scenario_text(kind: Kind, rate: float) -> str:
    """The scenario file of one trial."""
    return f"""\
title: selftest
arrivals: {{kind: poisson, rate: {rate:.6g}}}
workload:
  salt: false
  parts:
    - name: {kind}
      kind: written
      input: {{fixed: 32}}
      output: {{fixed: {_tokens(kind)}}}
      languages: {{en: 1}}
warm_up: {WARM_UP_SECONDS}
window: {WINDOW_SECONDS}
grace: 10.0
most_open: 100000
"""


def _tokens(kind: Kind) -> int:
    return SHORT if kind == "requests" else LONG


@dataclass(frozen=True, slots=True)
class Mock:
    """A mock engine that runs."""

    url: str
    pid: int

    def cpu_seconds(self) -> float | None:
        """That it has used so far."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return None
        # The name in brackets may hold spaces; behind it utime and stime are the 12th and 13th (proc_pid_stat(5)).
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def mock_engine(*, ttft_ms: float = TTFT_MS, itl_ms: float = ITL_MS) -> Iterator[Mock]:
    """A mock engine on a free port. Raises MissingExtraError or SelftestError."""
    if find_spec("httptools") is None or find_spec("uvloop") is None:
        raise MissingExtraError("gateway", "tri-serve load selftest (its mock engine)")
    argv = [sys.executable, "-m", "tri_serve.mock", "--port", "0"]
    argv += ["--ttft-ms", f"{ttft_ms:g}", "--itl-ms", f"{itl_ms:g}"]
    engine = subprocess.Popen(argv, env=_bare(os.environ), stdout=subprocess.PIPE, text=True)
    try:
        assert engine.stdout is not None
        words = engine.stdout.readline().split()  # it prints its address, or ends
        url = next((word.rstrip("/.,") for word in words if word.startswith("http://")), None)
        if url is None:
            raise SelftestError(
                "the mock engine did not start", hint="tri-serve-mock-engine --port 0 says why"
            )
        yield Mock(url, engine.pid)
    finally:
        engine.terminate()
        try:
            engine.wait(5)
        except subprocess.TimeoutExpired:
            engine.kill()
            engine.wait()
        if engine.stdout is not None:
            engine.stdout.close()


def _bare(environ: Mapping[str, str]) -> dict[str, str]:
    """Without what the user has set for real runs, keys included."""
    settings = ("TRI_SERVE_", "LOCUST_", "VLLM_", "OPENAI_")
    return {name: value for name, value in environ.items() if not name.startswith(settings)}


def swarm_attempt(mock: Mock, folder: Path) -> Try:
    """Tries by the same program, in the same way, as a real run."""

    def attempt(kind: Kind, rate: float) -> Trial:
        place = Path(tempfile.mkdtemp(prefix=f"{kind}-{rate:.0f}-", dir=folder))
        scenario = place / "selftest.yaml"
        scenario.write_text(scenario_text(kind, rate), encoding="utf-8")
        argv = [sys.executable, "-m", "tri_serve.load.swarm", "--headless", "--only-summary"]
        argv += ["--host", mock.url, "--scenario", str(scenario), "--results", str(place)]
        used, began = mock.cpu_seconds(), time.monotonic()
        try:
            run = subprocess.run(
                argv, env=_bare(os.environ), capture_output=True, text=True, timeout=_RUN_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise SelftestError(
                f"a trial of {rate:.0f} requests/s did not end in {error.timeout:.0f} s"
            ) from error
        now_used, passed = mock.cpu_seconds(), time.monotonic() - began
        try:
            result = RunResult.model_validate_json((place / "result.json").read_bytes())
        except (OSError, ValidationError) as error:
            last = run.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise SelftestError(f"a trial of {rate:.0f} requests/s left no result: {last[0]}") from error
        # It has work in the warm-up and the window alone; of the rest of ``passed`` the client starts and reports.
        busy = min(passed, WARM_UP_SECONDS + WINDOW_SECONDS)
        share = (now_used - used) / busy if used is not None and now_used is not None else None
        return trial_of(kind, result, share)

    return attempt


def selftest(*, cpu: str, cores: int, say: Say) -> Ceiling:
    """All of it: about three minutes. ``say`` gets a line a trial. Raises SelftestError, MissingExtraError."""
    with mock_engine() as mock, tempfile.TemporaryDirectory(prefix="tri-serve-selftest-") as folder:
        attempt = swarm_attempt(mock, Path(folder))

        def told(kind: Kind, rate: float) -> Trial:
            trial = attempt(kind, rate)
            for line in trial_lines(trial):
                say(line)
            return trial

        say(HEADING)
        return measure_ceiling(told, cpu=cpu, cores=cores, now=datetime.now(UTC))


HEADING = "requests/s  events/s  begun late  loop late  client  no CPU  mock"
"""Over ``trial_line``s. Lateness is the p99; the rest are shares of one core, "no CPU" of the time."""


def trial_line(trial: Trial) -> str:
    """One trial in 80 columns."""

    def ms(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f} ms"

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.0%}"

    word = "ok" if trial.believed else "mock engine full" if trial.mock_was_full else "doubted"
    return (
        f"{trial.requests_per_second:>10,.0f} {trial.events_per_second:>9,.0f} "
        f"{ms(trial.dispatch_lag_p99_ms):>11} {ms(trial.loop_lag_p99_ms):>10} "
        f"{share(trial.cpu_share):>7} {share(trial.cpu_wait_share):>7} {share(trial.mock_cpu_share):>5}  {word}"
    )


def trial_lines(trial: Trial) -> list[str]:
    """One trial, and what speaks against it where something does."""
    doubts = [] if trial.believed else trial.doubts
    return [
        trial_line(trial),
        *(
            line
            for doubt in doubts
            for line in textwrap.wrap(doubt, 80, initial_indent="    ", subsequent_indent="      ")
        ),
    ]


def ceiling_lines(ceiling: Ceiling) -> list[str]:
    """What it comes to, for a person."""
    lines = [
        f"One process of the client on this machine ({ceiling.cpu}, {ceiling.cores} cores) is believed up to"
    ]
    for kind, value, more, words in (
        ("requests", ceiling.requests_per_second, ceiling.requests_at_least, f"requests/s of {SHORT} tokens"),
        (
            "events",
            ceiling.events_per_second,
            ceiling.events_at_least,
            f"events/s in answers of {LONG} tokens",
        ),
    ):
        if value:
            further = " or more (the mock engine could not go on)" if more else ""
            lines.append(f"  {value:,.0f} {words}{further}")
        else:
            first = next(trial for trial in ceiling.trials if trial.kind == kind)
            lines.append(f"  no rate of {words} that was tried:")
            lines += [f"    {doubt}" for doubt in first.doubts]
    lines.append(
        "The mock engine ran on the same cores. --processes N gives N times that while there are cores for it."
    )
    waited = max((trial.cpu_wait_share or 0.0 for trial in ceiling.trials), default=0.0)
    if waited >= SHORT_OF_CPU:
        lines += [
            f"For up to {waited:.0%} of a trial the client was ready and had no CPU: what else runs here uses it.",
            "Without that it can do more.",
        ]
    return lines
