"""``python -m benchmarks.load.truth``: what each client measures of a server whose times are known.

The server (replay.py) writes token k at TTFT + k · ITL after it has read the request, and measures how late it was
itself. An error is what a client measured less what was scheduled; what the server was late is part of it, and is
printed beside. Clients take turns; each has a core of its own where the machine has one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.gateway.machine import facts, raise_descriptor_limit, split_cores
from benchmarks.load import contenders
from benchmarks.load.contenders import Load, Seen
from benchmarks.load.replay import Replay, chat_script

PROMISED_ERROR_MS = 1.0
MOST_LATE_MS = 0.5
"""Of the server's p99: half of what is promised must be left for the client."""
_TTFT, _ITL = 0.200, 0.050
_RISE_SECONDS = 2.0
"""Over which the streams begin."""


def errors(answers: Sequence[Seen], tokens: int) -> dict[str, dict[str, float]]:
    """p50, p99 and max of the errors' sizes in ms, of the time to first token and of the mean gap of each answer.

    The role event comes with the first token, so that an answer's gaps are one of nothing and tokens − 1 of ITL.
    """
    ttft = [abs(answer.ttft - 1e3 * _TTFT) for answer in answers]
    gap = [abs((answer.e2e - answer.ttft) / (tokens - 1) - 1e3 * _ITL) for answer in answers]
    every = [abs(one - 1e3 * _ITL) for answer in answers if len(answer.gaps) > 1 for one in answer.gaps[1:]]
    return {"ttft": _sizes(ttft), "tpot": _sizes(gap), **({"itl": _sizes(every)} if every else {})}


def _sizes(values: list[float]) -> dict[str, float]:
    values = sorted(values)
    return {
        "least": values[0],
        "p50": values[len(values) // 2],
        "p99": values[min(len(values) - 1, len(values) * 99 // 100)],
        "max": values[-1],
    }


def measure(name: str, streams: int, tokens: int, options: dict[str, Path]) -> dict[str, Any]:
    """One client at so many streams at once."""
    own, others = split_cores()
    with Replay(chat_script(_TTFT, _ITL, tokens), others) as server:
        load = Load(server.url, streams, streams / _RISE_SECONDS, tokens)
        if name == "ours":
            answers, _ = contenders.ours(load, own)
        elif name == "vllm":
            answers, _ = contenders.vllm(load, options["vllm_python"], options["tokenizer"], own)
        else:
            answers = contenders.guidellm(load, options["guidellm"], options["tokenizer"], own)
    return {
        "client": name,
        "streams": streams,
        "answers": len(answers),
        "errors_ms": errors(answers, tokens),
        "server": server.report,
    }


def line(found: dict[str, Any]) -> str:
    """One row of the table."""
    cells = []
    for figure in ("ttft", "itl", "tpot"):
        sizes = found["errors_ms"].get(figure)
        cells.append(" ".join(f"{sizes[q]:7.2f}" for q in ("p50", "p99", "max")) if sizes else f"{'-':>23}")
    late = found["server"]
    own = f"{late['late_p50_ms']:.2f} {late['late_p99_ms']:.2f} {late['late_max_ms']:.2f}"
    return f"{found['client']:>9} {found['streams']:>7} | {' | '.join(cells)} | {own}"


@click.command(help=__doc__)
@click.option("--streams", default="64,1000", show_default=True, help="At once, with commas.")
@click.option("--tokens", default=128, show_default=True, help="Of each answer.")
@click.option("--rounds", default=3, show_default=True)
@click.option(
    "--vllm-python",
    type=click.Path(path_type=Path),
    help="Python of an engine environment (vllm bench serve).",
)
@click.option("--guidellm", type=click.Path(path_type=Path), help="The guidellm program.")
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), help="Folder of a tokenizer, which the other two need."
)
@click.option("--output", type=click.Path(path_type=Path), help="Write the raw figures as JSON.")
def main(
    streams: str,
    tokens: int,
    rounds: int,
    vllm_python: Path | None,
    guidellm: Path | None,
    tokenizer: Path | None,
    output: Path | None,
) -> None:
    """Print the table; exit code 1 if our median or p99 error is a millisecond or more, 2 if the server itself was
    so late that nothing can be said."""
    raise_descriptor_limit()
    given = {"vllm_python": vllm_python, "guidellm": guidellm, "tokenizer": tokenizer}
    options = {name: path.absolute() for name, path in given.items() if path is not None}
    names = ["ours"]
    if tokenizer is not None:
        names += ["vllm"] * (vllm_python is not None) + ["guidellm"] * (guidellm is not None)
    heads = " | ".join(f"{name + ' error, ms (p50 p99 max)':>23}" for name in ("TTFT", "ITL", "TPOT"))
    click.echo(f"{'client':>9} {'streams':>7} | {heads} | server late, ms")
    measured = []
    for count in (int(word) for word in streams.split(",")):
        for _ in range(rounds):
            for name in names:
                measured.append(measure(name, count, tokens, options))
                click.echo(line(measured[-1]))
    if output is not None:
        output.write_text(json.dumps({"machine": facts(), "rounds": measured}, indent=1) + "\n")
    mine = [found for found in measured if found["client"] == "ours"]
    judged = [found for found in mine if quiet(found)]
    broken = [found for found in judged if not within(found)]
    for found in broken:
        click.echo(f"BROKEN: {found['streams']} streams: off by {PROMISED_ERROR_MS} ms or more")
    if len(judged) < len(mine):
        click.echo(
            f"{len(mine) - len(judged)} rounds say nothing: the server was late by {MOST_LATE_MS} ms and more"
        )
    sys.exit(1 if broken else 0 if judged else 2)


def quiet(found: dict[str, Any]) -> bool:
    """Whether the machine let the server keep its times."""
    return bool(found["server"]["late_p99_ms"] < MOST_LATE_MS)


def within(found: dict[str, Any]) -> bool:
    """Whether the errors are as small as promised; what the server was late is in them."""
    sizes = found["errors_ms"].values()
    return all(size[quantile] < PROMISED_ERROR_MS for size in sizes for quantile in ("p50", "p99"))


if __name__ == "__main__":
    main()
