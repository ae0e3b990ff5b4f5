"""The options that a locustfile of ours adds to Locust's own, and the scenario that they describe."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from tri_serve.errors import UsageError
from tri_serve.load.scenario.reading import LoadedScenario, read_scenario, scenario_names
from tri_serve.load.scenario.short import Short
from tri_serve.load.wire.target import parse_target
from tri_serve.places import state_dir
from tri_serve.spec.slo import parse_slo

DEFAULT_SCENARIO = "smoke"
ENVIRONMENT = "TRI_SERVE_LOAD_"
WEB_HOST = "127.0.0.1"
"""Locust's own default is every address of the machine, and its web UI asks for no password."""

_FORM = (
    "scenario", "model", "request_rate", "max_concurrency", "duration", "warm_up", "num_prompts", "slo", "seed",
)  # fmt: skip
"""What the web UI's form may change between two runs."""


def add_options(parser: Any) -> None:
    """Add them to Locust's parser. Every one has a variable: TRI_SERVE_LOAD_REQUEST_RATE."""
    parser.set_defaults(web_host=WEB_HOST)
    for action in parser._actions:
        if action.dest == "web_host":
            action.help = f"Host to bind the web interface to: {WEB_HOST}, or '*' for all interfaces"
    group = parser.add_argument_group("tri-serve options", "What is asked of the model, and when.")

    def add(name: str, words: str, *, web: bool = True, **more: Any) -> None:
        variable = ENVIRONMENT + name.strip("-").replace("-", "_").upper()
        action = group.add_argument(name, env_var=variable, help=words, **more)
        # Locust's parser sets these itself, but not for arguments of a group.
        action.include_in_web_ui = web
        action.is_secret = action.is_required = action.is_multiple = False

    add("--scenario", "Name of a shipped scenario, or a file: ./mine.yaml.", default=DEFAULT_SCENARIO)
    add("--model", "Model to ask. Default: the one that the server serves.", default="")
    add("--request-rate", "Requests a second (open loop).", default="")
    add(
        "--max-concurrency",
        "Without a request rate: so many users who ask one after the other (closed loop). With one: requests that "
        "may be open at once; what is due beyond is counted as unsent.",
        default="",
    )
    add("--duration", "Length of the counted window, with a unit: 60s.", default="")
    add("--warm-up", "Load before the window, not counted: 10s.", default="")
    add("--num-prompts", "End the window after so many requests.", default="")
    add("--slo", "What is promised: ttft=500ms,tpot=50ms.", default="")
    add("--seed", "Of arrivals and prompts.", default="")
    add("--set", "KEY=VALUE of the scenario; can be repeated.", web=False, action="append", default=[])
    add("--tokenizer", "tokenizer.json of the model. Default: the server's /tokenize.", web=False, default="")
    add(
        "--results",
        "Folder for the run's files. Default: a new one under ~/.local/state.",
        web=False,
        default="",
    )
    add("--records", "Per-request file.", web=False, choices=["full", "short", "none"], default="full")
    add("--save-vllm-json", "Write vllm.json too.", web=False, action="store_true", default=False)
    add(
        "--save-detailed",
        "Write vllm.json with lists that have an entry for each request.",
        web=False,
        action="store_true",
        default=False,
    )
    add(
        "--scrape",
        "gateway=URL or NAME=URL of a metrics page; can be repeated.",
        web=False,
        action="append",
        default=[],
    )
    add("--ca-file", "Certificates to trust in place of the system's.", web=False, default="")
    add("--insecure", "Do not check the server's certificate.", web=False, action="store_true", default=False)
    add("--token-ids", "Ask the server for token ids.", web=False, action="store_true", default=False)
    add(
        "--no-real-time",
        "Stay in the ordinary scheduling class.",
        web=False,
        action="store_true",
        default=False,
    )
    # Filled in by `tri-serve load run`, which knows them of a release.
    for name in ("--release", "--replicas"):
        add(name, argparse.SUPPRESS, web=False, default="")


def take_over(options: Any) -> None:
    """Let Locust's own -u, -r and -t say what they say to those who know them: users of a closed loop, how many of
    them begin a second, and the length of the window (Locust would count the warm-up and the preparation too).
    """
    users, spawn_rate = options.num_users, options.spawn_rate
    if users and not options.max_concurrency:
        options.max_concurrency = str(users)
        if spawn_rate and not options.request_rate:
            options.set = [f"arrivals.stagger={users / spawn_rate:g}s", *(options.set or ())]
    if options.run_time and not options.duration:
        options.duration = f"{options.run_time}s"
    options.num_users = options.spawn_rate = options.run_time = None


def form_options(start: Any, form: Any) -> argparse.Namespace:
    """The options of a run that the web UI starts: those of the start, ``form``'s in place of what a form may say.

    Locust puts every posted field that is named like an option into its options, whether its form shows it or not.
    Files of this machine are for those who started Locust. Raises UsageError for a scenario that neither ships nor
    was given at the start.
    """
    scenario = form.scenario
    if scenario != start.scenario and scenario not in scenario_names():
        raise UsageError(
            f"no scenario is named {scenario!r}; the web UI takes those that ship, and the one that Locust was "
            "started with",
            hint="a file: locust -f loadtests/locustfile.py --scenario ./mine.yaml",
        )
    return argparse.Namespace(**{**vars(start), **{name: str(getattr(form, name) or "") for name in _FORM}})


def scenario_of(options: Any) -> LoadedScenario:
    """The scenario that Locust's parsed options describe. Raises UsageError."""
    short = Short(
        request_rate=options.request_rate,
        max_concurrency=options.max_concurrency,
        duration=options.duration,
        warm_up=options.warm_up,
        num_prompts=options.num_prompts,
        seed=options.seed,
    )
    changed = short.overrides(options.scenario, options.set or ())
    return with_slo(read_scenario(options.scenario, changed), options.slo)


def with_slo(loaded: LoadedScenario, words: str) -> LoadedScenario:
    """The scenario with ``--slo`` in place of its own promises."""
    if not words:
        return loaded
    slo = parse_slo(words)
    return replace(
        loaded,
        scenario=loaded.scenario.model_copy(update={"slo": slo}),
        overrides=(*loaded.overrides, f"slo={slo}"),
    )


def key_goes_to(url: str | None, start: str | None) -> bool:
    """Whether the client key may be sent to ``url``: only to the server that Locust was started with (-H).

    The web UI takes any host from whoever can reach it.
    """
    if not url or not start:
        return False
    asked, named = parse_target(url), parse_target(start)
    return (asked.scheme, asked.host, asked.port) == (named.scheme, named.host, named.port)


def key_of(environ: os._Environ[str] | dict[str, str]) -> str | None:
    """The client key; there is no option for it, since every user of a machine can read argv."""
    return environ.get("TRI_SERVE_API_KEY") or environ.get("OPENAI_API_KEY") or None


def run_folder(results: str, name: str) -> Path:
    """Where a run's files go."""
    if not results:
        return state_dir() / "loads" / name
    folder = Path(results).absolute()
    # The web UI can start many runs: none writes over another's files.
    return folder / name if (folder / "result.json").exists() else folder
