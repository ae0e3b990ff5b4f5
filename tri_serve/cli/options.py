"""Options that several commands share, as decorators."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from tri_serve.spec.load import LoadedSpec

Command = TypeVar("Command", bound=Callable[..., Any])

SPEC_FILE = Path("tri-serve.yaml")
DEFAULT_RELEASE = "tri"
MOST_REPLICAS = 64
"""As tri_serve.spec.fleet has it, which would cost --help its import."""
RELEASE_PATTERN = r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?"
"""Fits a folder's name and a Kubernetes label: at most 40 characters, no hyphen at either end."""


@dataclass(frozen=True)
class SpecSelection:
    """What a command line says about the spec."""

    preset: str | None
    files: tuple[Path, ...]
    sets: tuple[str, ...]
    set_strings: tuple[str, ...]
    gpu: str | None = None
    """The kind of GPU for which the preset's own settings are wanted, as the catalogue names it."""

    def load(self, *, without_source: bool = False) -> LoadedSpec:
        """The spec. Neither preset nor file given: ./tri-serve.yaml if there is one, else tri-tiny-awq.

        ``without_source``: a preset may stand in for the checkpoint that it leaves to its user.
        Raises SpecError and UsageError.
        """
        from tri_serve.spec.load import load_spec

        files = self.files
        if not files and self.preset is None and SPEC_FILE.exists():
            files = (SPEC_FILE,)
        return load_spec(
            self.preset,
            files,
            os.environ,
            self.sets,
            self.set_strings,
            gpu=self.gpu,
            without_source=without_source,
        )


def spec_options(command: Command) -> Command:
    """[PRESET], -f, --set and --set-string, passed on as ``selection``: a SpecSelection."""

    @click.argument("preset", required=False, envvar="TRI_SERVE_PRESET")
    @click.option(
        "-f",
        "--file",
        multiple=True,
        type=click.Path(path_type=Path),
        envvar="TRI_SERVE_FILE",
        help="Spec file; later ones override earlier ones. [default: ./tri-serve.yaml]",
    )
    @click.option(
        "--set",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override one key (gateway.port=8001); VALUE is read as YAML, null resets.",
    )
    @click.option("--set-string", multiple=True, metavar="KEY=TEXT", help="As --set, the value kept as text.")
    @functools.wraps(command)
    def with_selection(*args: Any, **options: Any) -> Any:
        selection = SpecSelection(
            preset=options.pop("preset") or None,
            files=options.pop("file"),
            sets=options.pop("set"),
            set_strings=options.pop("set_string"),
        )
        return command(*args, selection=selection, **options)

    return with_selection  # type: ignore[return-value]  # the parameters that click passes have changed


def gpu_option(command: Command) -> Command:
    """--gpu for commands that use a spec and plan nothing: the preset's own settings for that kind of GPU.

    Stands below ``spec_options`` and joins its ``selection``.
    """

    @click.option(
        "--gpu",
        metavar="NAME",
        help="Use what the preset says for this kind of GPU (l4, h100, …); auto: for this machine's.",
    )
    @functools.wraps(command)
    def with_gpu(*args: Any, **options: Any) -> Any:
        name = options.pop("gpu")
        if name:
            from tri_serve.cli.plan_device import selection_for

            options["selection"] = selection_for(options["selection"], name)
        return command(*args, **options)

    return with_gpu  # type: ignore[return-value]  # as above


def fleet_options(command: Command) -> Command:
    """--replicas, --supervisor, --target and --address: short for --set of the keys of ``fleet``.

    Stands below ``spec_options`` and joins its ``selection``. A --set of the same key wins: these may come from
    environment variables, which a flag overrides.
    """

    @click.option(
        "--replicas",
        type=click.IntRange(1, MOST_REPLICAS),
        metavar="N",
        help="Engines behind the gateway (fleet.replicas).",
    )
    @click.option(
        "--supervisor",
        type=click.Choice(["ray", "process"]),
        help="What watches over engines and gateway (fleet.supervisor).",
    )
    @click.option(
        "--target",
        type=click.Choice(["local", "ray"]),
        help="This machine, or your Ray cluster (fleet.target).",
    )
    @click.option(
        "--address",
        metavar="HOST:PORT",
        help="Your Ray cluster's head, or auto (fleet.ray.address); means --target ray.",
    )
    @functools.wraps(command)
    def with_fleet(*args: Any, **options: Any) -> Any:
        given = {key: options.pop(key) for key in ("target", "supervisor", "replicas", "address")}
        if given["address"] and not given["target"]:
            given["target"] = "ray"
        selection: SpecSelection = options.pop("selection")
        sets = [f"fleet.{key}={value}" for key, value in given.items() if value and key != "address"]
        if given["address"]:
            sets.append(f"fleet.ray.address={json.dumps(given['address'])}")
        return command(*args, selection=replace(selection, sets=(*sets, *selection.sets)), **options)

    return with_fleet  # type: ignore[return-value]  # as above


def _release_name(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(RELEASE_PATTERN, value):
        raise click.BadParameter(
            f"{value!r} is no release name: 1 to 40 of a-z, 0-9 and -, no hyphen at either end"
        )
    return value


def release_option(command: Command) -> Command:
    """-r/--release, passed on as ``release``."""
    return click.option(
        "-r",
        "--release",
        default=DEFAULT_RELEASE,
        show_default=True,
        envvar="TRI_SERVE_RELEASE",
        callback=_release_name,
        help="Name of the fleet; another name runs another fleet beside it.",
    )(command)


class _Form(click.Choice[str]):
    """table, json or yaml; ``instead`` is said to who names something else."""

    def __init__(self, instead: str) -> None:
        super().__init__(["table", "json", "yaml"])
        self._instead = instead

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            raise click.BadParameter(error.message + self._instead, ctx=ctx, param=param) from error


def output_option(default: str = "table", *, instead: str = "") -> Callable[[Command], Command]:
    """-o/--output table|json|yaml and --json, passed on as ``output``: one of the three words.

    ``instead``: the end of the line that refuses another word, such as which option takes a folder.
    """

    def decorate(command: Command) -> Command:
        @click.option(
            "-o",
            "--output",
            type=_Form(instead),
            default=default,
            show_default=True,
            envvar="TRI_SERVE_OUTPUT",
            help="Form of what is printed.",
        )
        @click.option("--json", is_flag=True, help="Short for -o json.")
        @functools.wraps(command)
        def with_output(*args: Any, **options: Any) -> Any:
            if options.pop("json"):
                options["output"] = "json"
            return command(*args, **options)

        return with_output  # type: ignore[return-value]  # as above

    return decorate
