"""``python -m benchmarks.load.agreement``: one recorded stream, replayed to this project's client and to vLLM's own
benchmark (``vllm bench serve``, 0.32): do the ``*_vllm`` figures mean the same?

Two comparisons:

- ``formulas``: our records' times are handed to vLLM's own ``calculate_metrics``; its figures and those that a run
  reports (``summarise``) must be equal to the rounding of floating-point numbers. No clock is in this.
- ``replay``: both clients ask the same replay server in turns, round by round. The stream is uneven on purpose: a
  role event before the first token, two tokens in one event, an event cut in the middle of a character, two events
  in one write, a pause, an event without text, usage at the end. Every figure has a line: what each client said,
  the difference over the rounds with a 95 % interval (Student's t), what is allowed, and a word. ``agrees``: the
  whole interval is within what is allowed; ``differs``: all of it is outside; else nothing is said. Counts must be
  the same in every round.

One difference is known and named: vLLM's clock starts before aiohttp renders the request and takes a connection,
ours right before the first byte is written. So vLLM's TTFT and E2EL are longer by the same time, which is printed;
what is judged of them is their difference. Tails and deviations are the machine's and are printed only.

One thing is left out of the stream: a comment (``: ping``) in a packet of its own. vLLM 0.32 hears nothing of an
answer after one (``StreamedResponseHandler`` strips the comment's end and waits for it), and still calls the answer
a success; figures cannot agree on that. ``--comment`` puts one in and shows it.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path
from typing import Any, Literal

import click

from benchmarks.gateway.machine import facts, raise_descriptor_limit, split_cores
from benchmarks.load import contenders
from benchmarks.load.contenders import Load
from benchmarks.load.replay import (
    DONE,
    END,
    Replay,
    Step,
    chat_event,
    chat_script,
    chunk,
    usage_event,
)
from tri_serve.load.figures.collector import Collector, Window
from tri_serve.load.figures.model import Distribution
from tri_serve.load.figures.summary import summarise
from tri_serve.load.records import Record
from tri_serve.spec.slo import Slo

TOKENS = 12
LEAST_ROUNDS = 3
"""For an interval that can fail: of one round it has no end, of two it is 12.7 deviations wide."""
MOST_DURATION_MS = 10.0
"""Both clocks end when the last answer is there; vLLM prints durations to so much."""
EXACT = ("completed", "failed", "total_input_tokens", "total_output_tokens")
RATES = ("request_throughput", "output_throughput", "total_token_throughput", "request_goodput")
PEAKS = {"max_concurrent_requests": 1.0, "max_output_tokens_per_s": 2.0}
"""Seconds are counted from the first start: of 16 requests a second one starts on the edge of each, and no event
is within 12 ms of one, but for a start that is late. Two events are in one write."""
MOST_LATE_MS = 0.5
"""Of the server's p99, as in truth.py: a round in which it was later gives no times."""
TOTALS = ("duration", *EXACT, *RATES, *PEAKS)
FIGURES = ("ttft", "tpot", "itl", "e2el")
MOST_DIFFERENCE_MS = 0.5
"""Of what is timed alike: two timers' grain, each of a server that is exact to 0.1 ms on a quiet machine."""
KEYS = tuple(f"{summary}_{name}_ms" for name in FIGURES for summary in ("mean", "median", "std", "p99"))
"""As vLLM's result names them."""
_T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_CALCULATE = """
import json, sys
from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput
from vllm.benchmarks.serve import calculate_metrics
given = json.load(open(sys.argv[1]))
outputs = [RequestFuncOutput(success=True, **values) for values in given["outputs"]]
metrics, _ = calculate_metrics([], outputs, given["duration"], None, [99], given["goodput"])
found = {"duration": given["duration"]}
names = "completed failed request_throughput request_goodput output_throughput total_token_throughput"
for name in (*names.split(), "max_output_tokens_per_s", "max_concurrent_requests"):
    found[name] = float(getattr(metrics, name))
found["total_input_tokens"], found["total_output_tokens"] = float(metrics.total_input), float(metrics.total_output)
for name in ("ttft", "tpot", "itl", "e2el"):
    for kind in ("mean", "median", "std"):
        found[f"{kind}_{name}_ms"] = float(getattr(metrics, f"{kind}_{name}_ms"))
    found[f"p99_{name}_ms"] = float(getattr(metrics, f"percentiles_{name}_ms")[0][1])
json.dump(found, open(sys.argv[2], "w"))
"""


def recorded_script(*, comment: bool = False) -> list[Step]:
    """The uneven stream. Times are seconds after the request."""
    head, first, *_ = chat_script(0.0, 0.0, 1)
    cut = chunk(chat_event({"content": "한국어"}))
    middle = cut.index("국".encode()) + 1
    script = [
        head,
        Step(0.100, first.data),
        Step(0.200, chunk(chat_event({"content": "서울은 "}))),
        Step(0.220, chunk(chat_event({"content": "대한민국의 수도"}))),
        Step(0.250, cut[:middle]),
        Step(0.270, cut[middle:]),
        Step(0.300, chunk(chat_event({"content": "the "})) + chunk(chat_event({"content": "city "}))),
        Step(0.600, chunk(chat_event({"content": "東京"}))),
        Step(0.650, chunk(chat_event({"content": ""}))),
        Step(0.700, chunk(chat_event({"content": "."}, "length"))),
        Step(0.800, chunk(usage_event(contenders.PROMPT_TOKENS, TOKENS)) + chunk(DONE) + END),
    ]
    if comment:
        script.insert(-4, Step(0.310, chunk(b": ping\n\n")))
    return script


def figures(records: list[Record], rate: float, goodput: Mapping[str, float]) -> dict[str, float]:
    """What a run reports of these records by vLLM's definitions, under vLLM's names.

    ``rate``: requests a second; the window began that much before the first one was due. ``goodput`` in ms.
    """
    begin = min(record.scheduled for record in records) - round(1e9 / rate)
    slo = Slo(**{_SLO_NAMES[name]: bound / 1000 for name, bound in goodput.items()})
    collector = Collector(Window(start=begin, end=max(record.done for record in records)), slo)
    for record in records:
        collector.add(record)
    reported = summarise(collector).vllm
    found = {name: float(getattr(reported, name)) for name in TOTALS}
    for name in FIGURES:
        it: Distribution = getattr(reported, name)
        for summary, value in (("mean", it.mean), ("median", it.p50), ("std", it.std), ("p99", it.p99)):
            found[f"{summary}_{name}_ms"] = value
    return found


_SLO_NAMES = {"ttft": "ttft", "tpot": "tpot", "e2el": "e2e"}


def by_vllm_formulas(
    records: list[Record], rate: float, goodput: Mapping[str, float], python: Path
) -> dict[str, float]:
    """What vLLM's ``calculate_metrics`` makes of the same answers."""
    begin = min(record.scheduled for record in records) - round(1e9 / rate)
    outputs: list[dict[str, Any]] = []
    for record in records:
        answer = contenders.seen(record)
        outputs.append(
            {
                "start_time": (record.sent - begin) / 1e9,
                "ttft": answer.ttft / 1e3,
                "itl": [gap / 1e3 for gap in answer.gaps],
                "latency": answer.e2e / 1e3,
                "output_tokens": answer.tokens,
                "prompt_len": contenders.PROMPT_TOKENS,
            }
        )
    duration = (max(record.done for record in records) - begin) / 1e9
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.json", Path(folder) / "found.json"
        given.write_text(json.dumps({"outputs": outputs, "duration": duration, "goodput": goodput}))
        argv = [str(python), "-c", _CALCULATE, str(given), str(found)]
        subprocess.run(argv, check=True, capture_output=True, timeout=300, cwd=folder)
        result: dict[str, float] = json.loads(found.read_text())
    return result


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval, which has no end where there is one round."""
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, math.inf
    t = _T_95.get(len(differences) - 1, 2.0)
    return mean, t * statistics.stdev(differences) / math.sqrt(len(differences))


Word = Literal["agrees", "differs", "not said", "by definition", "not judged"]


@dataclass(frozen=True, slots=True)
class Line:
    """One figure over all rounds, ours less theirs."""

    name: str
    ours: float
    vllm: float
    mean: float
    half: float
    allowed: float | None
    """None: not judged."""
    word: Word
    why: str = ""


def judged(differences: Sequence[float], allowed: float) -> Word:
    """Whether both mean the same, as far as the rounds say: noise passes for neither."""
    if not allowed:
        return "differs" if any(differences) else "agrees"
    if len(differences) < LEAST_ROUNDS:
        return "not said"
    mean, half = interval(differences)
    if abs(mean) + half <= allowed:
        return "agrees"
    return "differs" if abs(mean) - half > allowed else "not said"


def compared(
    ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]], quiet: Sequence[bool]
) -> list[Line]:
    """Every figure, and what is left of TTFT and E2EL without the clocks' different starts.

    ``quiet``: rounds whose server kept its times. Of the others counts are judged alone.
    """
    seconds = statistics.fmean(one["duration"] for one in theirs)
    lines = []
    for name in (*TOTALS, *KEYS):
        pairs = [(one[name], other[name]) for one, other in zip(ours, theirs, strict=True)]
        size = max(abs(value) for pair in pairs for value in pair)
        used = pairs if name in EXACT else list(compress(pairs, quiet))
        lines.append(_line_of(name, pairs, used, _allowed(name, size, seconds)))
    without = [(_after_ttft(one), _after_ttft(other)) for one, other in zip(ours, theirs, strict=True)]
    lines.append(_line_of("e2el less ttft", without, list(compress(without, quiet)), MOST_DIFFERENCE_MS))
    return lines


def _after_ttft(one: Mapping[str, float]) -> float:
    return one["median_e2el_ms"] - one["median_ttft_ms"]


def _allowed(name: str, size: float, seconds: float) -> float | None:
    if name in EXACT:
        return 0.0
    if name == "duration":
        return MOST_DURATION_MS / 1000
    if name in RATES:  # as far as durations may differ
        return size * MOST_DURATION_MS / 1000 / seconds
    if name in PEAKS:
        return PEAKS[name]
    timed_alike = name.startswith(("mean", "median")) and ("_itl_" in name or "_tpot_" in name)
    return MOST_DIFFERENCE_MS if timed_alike else None


def _line_of(
    name: str,
    every: Sequence[tuple[float, float]],
    used: Sequence[tuple[float, float]],
    allowed: float | None,
) -> Line:
    # Where no round says anything, all are printed, and none is judged.
    pairs = used or every
    differences = [one - other for one, other in pairs]
    clocks = name.startswith(("mean", "median")) and ("_ttft_" in name or "_e2el_" in name)
    word: Word = "by definition" if clocks else "not judged"
    why = "vLLM's clock starts before it has a connection" if clocks else "the machine's noise"
    if allowed is not None:
        word, why = judged([one - other for one, other in used], allowed), ""
    ours, theirs = (statistics.fmean(pair[side] for pair in pairs) for side in (0, 1))
    return Line(name, ours, theirs, *interval(differences), allowed, word, why)


@click.command(help=__doc__)
@click.option(
    "--vllm-python", type=click.Path(path_type=Path), required=True, help="Of an engine environment."
)
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="Folder of a tokenizer.")
@click.option("--requests", default=100, show_default=True, help="In each round.")
@click.option("--rate", default=16.0, show_default=True, help="Requests a second.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help=f"From {LEAST_ROUNDS} on intervals can say something.",
)
@click.option(
    "--comment", is_flag=True, help="Put a comment into the stream, which vLLM's benchmark does not survive."
)
@click.option("--output", type=click.Path(path_type=Path), help="Write the raw figures as JSON.")
def main(
    vllm_python: Path,
    tokenizer: Path,
    requests: int,
    rate: float,
    rounds: int,
    comment: bool,
    output: Path | None,
) -> None:
    """Print both tables; exit code 1 if the formulas differ, or a figure does that should not; 2 if an interval is
    too wide to say."""
    raise_descriptor_limit()
    own, others = split_cores()
    ours_rounds: list[dict[str, float]] = []
    vllm_rounds: list[dict[str, float]] = []
    late = []
    records: list[Record] = []
    # A virtual environment's Python is a link that must not be resolved.
    vllm_python, tokenizer = vllm_python.absolute(), tokenizer.absolute()
    for number in range(rounds):
        order = ("ours", "vllm") if number % 2 == 0 else ("vllm", "ours")
        for name in order:
            with Replay(recorded_script(comment=comment), others) as server:
                load = Load(server.url, requests, rate, TOKENS)
                if name == "ours":
                    _, records = contenders.ours(load, own)
                    ours_rounds.append(figures(records, rate, contenders.GOODPUT_MS))
                else:
                    _, said = contenders.vllm(load, vllm_python, tokenizer, own)
                    vllm_rounds.append({key: float(said[key]) for key in (*TOTALS, *KEYS)})
            late.append({"client": name, **server.report})
            click.echo(f"round {number + 1} {name}: server late {server.report['late_p99_ms']:.2f} ms (p99)")
    broken = _formulas(records, rate, vllm_python)
    quiet = [max(one["late_p99_ms"] for one in late[2 * n : 2 * n + 2]) < MOST_LATE_MS for n in range(rounds)]
    if not all(quiet):
        click.echo(f"{quiet.count(False)} of {rounds} rounds give no times: the server was late in them")
    lines = compared(ours_rounds, vllm_rounds, quiet)
    _print(lines)
    if output is not None:
        result = {
            "machine": facts(),
            "ours": ours_rounds,
            "vllm": vllm_rounds,
            "server": late,
            "lines": [asdict(line) for line in lines],
        }
        output.write_text(json.dumps(result, indent=1) + "\n")
    broken += [f"{line.name} differs by {line.mean:+.4g}" for line in lines if line.word == "differs"]
    for text in broken:
        click.echo(f"BROKEN: {text}")
    unsaid = [line.name for line in lines if line.word == "not said"]
    if unsaid:
        more = f" (of at least {LEAST_ROUNDS} rounds)" if sum(quiet) < LEAST_ROUNDS else ""
        click.echo(f"the intervals{more} say nothing of: {', '.join(unsaid)}")
    sys.exit(1 if broken else 2 if unsaid else 0)


def _formulas(records: list[Record], rate: float, python: Path) -> list[str]:
    # A bound that half of the answers keep, so that counting the good ones is compared too.
    ttfts = sorted(contenders.seen(record).ttft for record in records)
    goodput = {"ttft": ttfts[len(ttfts) // 2], "tpot": 60.0}
    here = figures(records, rate, goodput)
    there = by_vllm_formulas(records, rate, goodput, python)
    worst = max(here, key=lambda key: abs(here[key] - there[key]))
    click.echo(
        f"formulas: {len(here)} figures, largest difference {abs(here[worst] - there[worst]):.2e} ({worst})"
    )
    wrong = [key for key in here if not math.isclose(here[key], there[key], rel_tol=1e-9, abs_tol=1e-6)]
    return [f"{key}: {here[key]} here, {there[key]} by vLLM's formulas" for key in wrong]


def _print(lines: Sequence[Line]) -> None:
    click.echo(f"{'figure':<24} {'ours':>11} {'vllm':>11} {'difference':>11} {'± 95 %':>9} {'allowed':>8}")
    for line in lines:
        allowed = "–" if line.allowed is None else f"{line.allowed:.3g}"
        click.echo(
            f"{line.name:<24} {line.ours:>11.3f} {line.vllm:>11.3f} {line.mean:>+11.3f} {line.half:>9.3f} "
            f"{allowed:>8}  {line.word}{': ' if line.why else ''}{line.why}"
        )


if __name__ == "__main__":
    main()
