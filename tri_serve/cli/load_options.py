"""The options that ``load run`` and ``load knee`` share, and what they come to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from tri_serve.cli.options import release_option

if TYPE_CHECKING:
    from tri_serve.load.run import LoadRun
    from tri_serve.load.scenario.reading import LoadedScenario

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class LoadOptions:
    """What a command line says of a load."""

    scenario: str
    url: str | None
    release: str
    model: str | None
    max_concurrency: str
    duration: str
    warm_up: str
    num_prompts: str
    slo: str
    goodput: str
    seed: str
    sets: tuple[str, ...]
    tokenizer: Path | None
    processes: str
    scrape: tuple[str, ...]
    ca_file: Path | None
    insecure: bool
    token_ids: bool
    no_real_time: bool

    def read(self, request_rate: str = "") -> LoadedScenario:
        """The scenario as it is to be run. Raises UsageError."""
        from tri_serve.load.scenario.reading import read_scenario

        return read_scenario(self.scenario, self._overrides(request_rate))

    def _overrides(self, request_rate: str) -> tuple[str, ...]:
        from tri_serve.load.scenario.short import Short

        short = Short(
            request_rate=request_rate,
            max_concurrency=self.max_concurrency,
            duration=self.duration,
            warm_up=self.warm_up,
            num_prompts=self.num_prompts,
            seed=self.seed,
        )
        return short.overrides(self.scenario, self.sets)

    @property
    def promises(self) -> str:
        """``--slo`` and ``--goodput`` together, checked. Raises UsageError."""
        from tri_serve.spec.slo import parse_slo

        words = " ".join(part for part in (self.slo, self.goodput) if part)
        if words:
            parse_slo(words)
        return words

    def run(self, folder: Path, request_rate: str = "", **more: Any) -> LoadRun:
        """What is to be run, with its result in ``folder``. Raises UsageError, and FleetError without a server."""
        import os

        from tri_serve.cli.load_place import place_of
        from tri_serve.load.run import LoadRun, processes_for

        place = None if self.url else place_of(self.release)
        if self.processes == "auto":
            processes = processes_for(self.read(request_rate).scenario, len(os.sched_getaffinity(0)))
        else:
            processes = int(self.processes)
        return LoadRun(
            url=self.url or (place.url if place else ""),
            scenario=self.scenario,
            folder=folder,
            model=self.model or (place.model if place else None),
            sets=self._overrides(request_rate),
            slo=self.promises,
            processes=processes,
            tokenizer=self.tokenizer or (place.tokenizer if place else None),
            scrape=self.scrape or (place.scrape if place else ()),
            ca_file=self.ca_file,
            insecure=self.insecure,
            token_ids=self.token_ids,
            no_real_time=self.no_real_time,
            release=place.release if place else None,
            replicas=place.replicas if place else None,
            **more,
        )


def _processes(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    if value != "auto" and not (value.isdecimal() and 1 <= int(value) <= 256):
        raise click.BadParameter(f"{value!r} is neither auto nor a number from 1 to 256")
    return value


def said(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    """Empty is not given; on the command line that is a variable of a shell that was not set."""
    if not value.strip() and ctx.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE:
        raise click.BadParameter("nothing follows it; leave the option out, or give it a value")
    return value


def load_options(command: Command) -> Command:
    """SCENARIO and what is asked of whom, passed on as ``load``: a LoadOptions."""

    @click.argument("scenario")
    @click.option(
        "--url", metavar="URL", help="Any OpenAI-compatible server. [default: the release's gateway]"
    )
    @release_option
    @click.option("--model", metavar="NAME", help="Model to ask. [default: what the server serves]")
    @click.option(
        "--max-concurrency",
        default="",
        callback=said,
        metavar="N",
        help="Without --request-rate: so many users, each asking when answered. With it: most open requests.",
    )
    @click.option(
        "--duration", default="", callback=said, metavar="TIME", help="Length of the counted window: 60s, 5m."
    )
    @click.option(
        "--warm-up", default="", callback=said, metavar="TIME", help="Load before the window, not counted."
    )
    @click.option(
        "--num-prompts", default="", callback=said, metavar="N", help="End the window after so many requests."
    )
    @click.option(
        "--slo", default="", callback=said, metavar="WORDS", help="What is promised: ttft=500ms,tpot=50ms."
    )
    @click.option(
        "--goodput",
        default="",
        callback=said,
        metavar="WORDS",
        help="The same as vLLM writes it: 'ttft:500 tpot:50'.",
    )
    @click.option("--seed", default="", callback=said, metavar="N", help="Of arrivals and prompts.")
    @click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a key of the scenario.")
    @click.option(
        "--tokenizer",
        type=click.Path(path_type=Path, exists=True),
        metavar="PATH",
        help="tokenizer.json, or its folder. [default: the release's, else the server's /tokenize]",
    )
    @click.option(
        "--processes",
        default="auto",
        show_default=True,
        callback=_processes,
        metavar="N|auto",
        help="Processes of the client.",
    )
    @click.option(
        "--scrape",
        multiple=True,
        metavar="NAME=URL",
        help="Metrics page of an engine, or gateway=URL. [default: the release's, else URL/metrics]",
    )
    @click.option(
        "--ca-file",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE",
        help="Certificates to trust in place of the system's.",
    )
    @click.option("--insecure", is_flag=True, help="Do not check the server's certificate.")
    @click.option("--token-ids", is_flag=True, help="Have vLLM send token ids, to count each event's tokens.")
    @click.option(
        "--no-real-time", is_flag=True, help="Do not take the kernel's real-time class where it is allowed."
    )
    @functools.wraps(command)
    def with_load(*args: Any, **options: Any) -> Any:
        names = LoadOptions.__dataclass_fields__
        return command(*args, load=LoadOptions(**{name: options.pop(name) for name in names}), **options)

    return with_load  # type: ignore[return-value]  # the parameters that click passes have changed
