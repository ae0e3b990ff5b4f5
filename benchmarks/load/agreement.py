"""``python -m benchmarks.load.agreement``: one recorded stream, replayed to this project's client and to vLLM's own
benchmark (``vllm bench serve``, 0.32): do the ``*_vllm`` figures mean the same?

Two comparisons:

- ``formulas``: our records' times are handed to vLLM's own ``calculate_metrics``; its figures and those that a run
  reports (``summarise``) must be equal to the rounding of floating-point numbers. No clock is in this.
- ``replay``: both clients ask the same replay server in turns, round by round. The stream is uneven on purpose: a
  role event before the first token, two tokens in one event, an event cut in the middle of a character, two events
  in one write, a pause, an event without text, usage at the end. The differences of the rounds' figures are printed
  with a 95 % interval (Student's t), beside how late the server was.

One difference is known and named: vLLM's clock starts before aiohttp renders the request and takes a connection,
ours right before the first byte is written. So vLLM's TTFT and E2EL are longer by the same time, which is printed.

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
from pathlib import Path
from typing import Any

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
outputs = [RequestFuncOutput(success=True, **values) for values in json.load(open(sys.argv[1]))]
span = max(o.start_time + o.latency for o in outputs) - min(o.start_time for o in outputs)
metrics, _ = calculate_metrics([], outputs, span, None, [99], {"ttft": 210.0, "tpot": 60.0})
found = {}
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


def figures(records: list[Record]) -> dict[str, float]:
    """What a run reports of these records by vLLM's definitions, under vLLM's names, in ms."""
    begin = min(record.sent for record in records)
    collector = Collector(Window(start=begin, end=max(record.done for record in records)), Slo())
    for record in records:
        collector.add(record)
    found = {}
    reported = summarise(collector).vllm
    for name in FIGURES:
        it: Distribution = getattr(reported, name)
        for summary, value in (("mean", it.mean), ("median", it.p50), ("std", it.std), ("p99", it.p99)):
            found[f"{summary}_{name}_ms"] = value
    return found


def by_vllm_formulas(records: list[Record], python: Path) -> dict[str, float]:
    """What vLLM's ``calculate_metrics`` makes of the same answers."""
    answers = [contenders.seen(record) for record in records]
    outputs: list[dict[str, Any]] = [
        {
            "start_time": 0.25 * number,
            "ttft": answer.ttft / 1e3,
            "itl": [gap / 1e3 for gap in answer.gaps],
            "latency": answer.e2e / 1e3,
            "output_tokens": answer.tokens,
            "prompt_len": contenders.PROMPT_TOKENS,
        }
        for number, answer in enumerate(answers)
    ]
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.json", Path(folder) / "found.json"
        given.write_text(json.dumps(outputs))
        argv = [str(python), "-c", _CALCULATE, str(given), str(found)]
        subprocess.run(argv, check=True, capture_output=True, timeout=300, cwd=folder)
        result: dict[str, float] = json.loads(found.read_text())
    return result


def interval(differences: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval; without width where there is one round."""
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, math.inf
    t = _T_95.get(len(differences) - 1, 2.0)
    return mean, t * statistics.stdev(differences) / math.sqrt(len(differences))


@click.command(help=__doc__)
@click.option(
    "--vllm-python", type=click.Path(path_type=Path), required=True, help="Of an engine environment."
)
@click.option("--tokenizer", type=click.Path(path_type=Path), required=True, help="Folder of a tokenizer.")
@click.option("--requests", default=100, show_default=True, help="In each round.")
@click.option("--rate", default=20.0, show_default=True, help="Requests a second.")
@click.option("--rounds", default=5, show_default=True)
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
    """Print both tables; exit code 1 if the formulas differ, or what both clients time alike does."""
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
                    ours_rounds.append(figures(records))
                else:
                    _, said = contenders.vllm(load, vllm_python, tokenizer, own)
                    vllm_rounds.append({key: float(said[key]) for key in KEYS})
            late.append({"client": name, **server.report})
            click.echo(f"round {number + 1} {name}: server late {server.report['late_p99_ms']:.2f} ms (p99)")
    broken = _formulas(records, vllm_python) + _replayed(ours_rounds, vllm_rounds)
    if output is not None:
        result = {"machine": facts(), "ours": ours_rounds, "vllm": vllm_rounds, "server": late}
        output.write_text(json.dumps(result, indent=1) + "\n")
    for text in broken:
        click.echo(f"BROKEN: {text}")
    sys.exit(1 if broken else 0)


def _formulas(records: list[Record], python: Path) -> list[str]:
    here, there = figures(records), by_vllm_formulas(records, python)
    worst = max(here, key=lambda key: abs(here[key] - there[key]))
    click.echo(f"formulas: largest difference {abs(here[worst] - there[worst]):.2e} ms ({worst})")
    wrong = [key for key in here if not math.isclose(here[key], there[key], rel_tol=1e-9, abs_tol=1e-6)]
    return [f"{key}: {here[key]} here, {there[key]} by vLLM's formulas" for key in wrong]


def _replayed(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> list[str]:
    differences = {key: [a[key] - b[key] for a, b in zip(ours, theirs, strict=True)] for key in KEYS}
    click.echo(f"{'figure, ms':<16} {'ours':>10} {'vllm':>10} {'difference':>11} ± 95 %")
    for key in KEYS:
        mean, half = interval(differences[key])
        here, there = (statistics.fmean(r[key] for r in rounds) for rounds in (ours, theirs))
        click.echo(f"{key:<16} {here:>10.3f} {there:>10.3f} {mean:>+11.3f} {half:.3f}")
    earlier, half = interval([-value for value in differences["median_ttft_ms"]])
    click.echo(f"vLLM's clock starts {earlier:.3f} ± {half:.3f} ms earlier (median TTFT)")
    # What is timed alike: everything from the first event on.
    alike = {
        key: differences[key] for key in KEYS if key.startswith(("mean", "median")) and "tl_ms" in key[-5:]
    }
    alike |= {key: differences[key] for key in ("mean_tpot_ms", "median_tpot_ms")}
    ends, begins = differences["median_e2el_ms"], differences["median_ttft_ms"]
    alike["median_e2el_ms less median_ttft_ms"] = [
        end - begin for end, begin in zip(ends, begins, strict=True)
    ]
    means = {key: interval(values) for key, values in alike.items()}
    return [
        f"{key} differs by {mean:+.3f} ms"
        for key, (mean, half) in means.items()
        if abs(mean) > MOST_DIFFERENCE_MS and abs(mean) > half
    ]


if __name__ == "__main__":
    main()
