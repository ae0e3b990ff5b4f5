"""``python -m benchmarks.load.agreement_engine``: a real engine that is running, asked in turns by this project's
client and by ``vllm bench serve`` (0.32): do the ``*_vllm`` figures agree?

Both get the same prompts from one file, the same body (temperature 0, ``ignore_eos``, as many tokens) and the same
arrival times: vLLM draws gamma gaps from its ``--seed`` and stretches them, and so does this. A round is a turn of
each, with the same arrivals, in an order that is shuffled; the first round warms up and is left out. With
``--cache salted`` each turn has a ``cache_salt`` of its own, so that none finds what another left in the engine's
prefix cache; with ``warm`` all find what the warm-up left.

A figure's line has what each said, the difference over the rounds with a 95 % interval (Student's t), what is
allowed (the clocks' and the print's grain), and a word:

- ``agrees``: the interval holds 0 and reaches no further than 5 % of the figure, or it lies within what is allowed.
- ``by definition``: TTFT or E2EL is shorter here, and is not once vLLM's is counted from when aiohttp wrote the
  request, which a listener in its process notes: vLLM's clock starts before it has a connection.
- ``differs``: the whole interval is on one side of 0, and outside of what is allowed.
- ``not said``: too few rounds, or an interval that is too wide.

Counts must be the same in every round. Of figures marked * (tails, peaks) the exit code is independent. Of twenty
figures that agree one interval misses 0 by chance: a lone ``differs`` wants more rounds.

What it leaves out: Locust, under which ``tri-serve load run`` uses this client; the wire beyond one machine's where
both are on it; and the cores that the clients take from an engine on the same machine, which is in each
figure. A client key is taken from TRI_SERVE_API_KEY.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from random import Random
from secrets import token_hex
from typing import Any

import click

from benchmarks.gateway.machine import facts
from benchmarks.load import engine_clients
from benchmarks.load.contenders import ContenderError
from benchmarks.load.engine_clients import Said, Turn
from benchmarks.load.paired import LEAST_ROUNDS, Line, compared, exit_code, table
from tri_serve.load.workload.sentences import read_sentences

_CLIENTS = ("ours", "vllm")
_SENTENCES = 4
"""Of each prompt that is written here: about a hundred tokens."""
_VERSIONS = "vllm", "aiohttp", "numpy"
_OWN_VERSIONS = "tri-serve", "gevent", "numpy"


def write_prompts(path: Path, requests: int, seed: int) -> None:
    """A file in ShareGPT's form: Korean, English and Japanese in turns, none like another."""
    random = Random(seed)
    texts = {language: read_sentences(language) for language in ("ko", "en", "ja")}
    languages = tuple(texts)
    entries = []
    for number in range(requests):
        chosen = random.sample(texts[languages[number % len(languages)]], _SENTENCES)
        asked = {"from": "human", "value": " ".join([f"{number + 1}.", *chosen])}
        # vLLM takes no conversation without an answer.
        entries.append({"conversations": [asked, {"from": "gpt", "value": "-"}]})
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")


def broken(lines: list[Line], asked: int) -> list[str]:
    """What was promised and is not so. ``asked``: output tokens of a round."""
    found = [
        f"{line.name} differs by {line.mean:+.4g}"
        for line in lines
        if line.word == "differs" and line.promised
    ]
    found += [
        f"{client}: {tokens:g} output tokens a round, where {asked} were asked for"
        for line in lines
        if line.name == "total_output_tokens"
        for client, tokens in (("ours", line.ours), ("vllm", line.vllm))
        if tokens != asked
    ]
    return found


def _fetch(url: str, key: str) -> Any:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {key}"} if key else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def _served(url: str, model: str, key: str) -> dict[str, Any]:
    """The engine, as a report should name it. Raises click.UsageError if it does not serve the model."""
    try:
        models = {entry["id"]: entry for entry in _fetch(f"{url}/v1/models", key)["data"]}
    except (OSError, ValueError, KeyError) as error:
        raise click.UsageError(f"--url {url}: no model list ({error})") from error
    if model not in models:
        raise click.UsageError(f"--model {model}: {url} serves {', '.join(models)}")
    try:
        engine = _fetch(f"{url}/version", key)
    except urllib.error.HTTPError:  # a gateway has none
        engine = {}
    return {"model": model, "max_model_len": models[model].get("max_model_len"), **engine}


def _versions(python: Path) -> dict[str, dict[str, str]]:
    code = "import sys, json, importlib.metadata as m; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    said = subprocess.run(
        [str(python), "-c", code, *_VERSIONS], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    return {"ours": {name: version(name) for name in _OWN_VERSIONS}, "vllm": json.loads(said)}


@click.command(help=__doc__)
@click.option("--url", required=True, help="http://HOST:PORT of a running engine.")
@click.option("--model", required=True, help="Name that it serves.")
@click.option(
    "--vllm-python", type=click.Path(path_type=Path), required=True, help="Of an engine environment."
)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of a tokenizer. vLLM's benchmark does not start without; tokens are counted by the server.",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, exists=True),
    help="In ShareGPT's form; written from --seed if there is none.",
)
@click.option("--requests", type=click.IntRange(min=2), default=60, show_default=True, help="In each turn.")
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="A second."
)
@click.option(
    "--burstiness",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Shape of the gaps' gamma distribution; 1 is Poisson.",
)
@click.option("--tokens", type=click.IntRange(min=2), default=32, show_default=True, help="Of each answer.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=LEAST_ROUNDS,
    show_default=True,
    help=f"After the one that warms up. From {LEAST_ROUNDS} on intervals can say something.",
)
@click.option("--cache", type=click.Choice(["salted", "warm"]), default="salted", show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of prompts, arrivals and the order.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the raw figures as JSON.")
def main(
    url: str,
    model: str,
    vllm_python: Path,
    tokenizer: Path,
    prompts: Path | None,
    requests: int,
    rate: float,
    burstiness: float,
    tokens: int,
    rounds: int,
    cache: str,
    seed: int,
    output: Path | None,
) -> None:
    """Print the table; exit code 1 if a promised figure differs or a request fails, 2 if of one nothing is said."""
    key = os.environ.get("TRI_SERVE_API_KEY", "")
    url = url.rstrip("/").removesuffix("/v1")
    engine = _served(url, model, key)
    # A virtual environment's Python is a link that must not be resolved.
    vllm_python, tokenizer = vllm_python.absolute(), tokenizer.absolute()
    result: dict[str, Any] = {"machine": facts(), "engine": engine, "versions": _versions(vllm_python)}
    run, order = token_hex(4), Random(seed)
    turns: list[dict[str, Said]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompts.json" if prompts is None else prompts.absolute()
        if prompts is None:
            write_prompts(path, requests, seed)
        elif len(engine_clients.read_prompts(path)) < requests:
            raise click.UsageError(f"--prompts {prompts}: fewer prompts than --requests {requests}")
        for number in range(rounds + 1):
            said: dict[str, Said] = {}
            for client in order.sample(_CLIENTS, len(_CLIENTS)):
                salt = f"{run}-{number}-{client}" if cache == "salted" else ""
                turn = Turn(url, model, str(path), requests, tokens, rate, burstiness, seed + number, salt)
                try:
                    said[client] = (
                        engine_clients.ours(turn, key)
                        if client == "ours"
                        else engine_clients.vllm(turn, vllm_python, tokenizer, key)
                    )
                except ContenderError as error:
                    click.echo(f"BROKEN: {error}")
                    sys.exit(1)
                click.echo(f"{f'round {number}' if number else 'warm-up'} {client}: {_sends(said[client])}")
            turns += [said] if number else []
    lines = compared([one["ours"].figures for one in turns], [one["vllm"].figures for one in turns])
    click.echo(table(lines))
    if output is not None:
        options = {"requests": requests, "rate": rate, "burstiness": burstiness, "tokens": tokens}
        result |= {"options": {**options, "cache": cache, "seed": seed}, "lines": [asdict(x) for x in lines]}
        result["rounds"] = [{client: asdict(one) for client, one in said.items()} for said in turns]
        output.write_text(json.dumps(result, indent=1) + "\n")
    wrong = broken(lines, requests * tokens)
    for text in wrong:
        click.echo(f"BROKEN: {text}")
    unsaid = [line.name for line in lines if line.promised and line.word == "not said"]
    if unsaid:
        click.echo(f"nothing is said of: {', '.join(unsaid)}")
    sys.exit(1 if wrong else exit_code(lines))


def _sends(said: Said) -> str:
    lags = sorted(said.lags)
    text = (
        f"TTFT {said.figures['median_ttft_ms']:.2f} ms, sent up to {lags[-1]:.1f} ms unevenly, clock "
        f"{statistics.median(said.waits):.2f} ms before the request was written (median)"
    )
    return text if not said.cached_tokens else f"{text}, {said.cached_tokens} prompt tokens were cached"


if __name__ == "__main__":
    main()
