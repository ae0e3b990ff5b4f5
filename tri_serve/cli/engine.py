"""``tri-serve engine``: make, list and check the environments that engines run from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from tri_serve.cli.options import SpecSelection, output_option, spec_options
from tri_serve.cli.output import print_data, print_table
from tri_serve.errors import EngineEnvironmentError, UsageError
from tri_serve.places import data_dir

if TYPE_CHECKING:
    from tri_serve.launch.environment import EngineEnvironment
    from tri_serve.spec.engine import EngineSpec

BITSANDBYTES = "bitsandbytes"
"""As tri_serve.launch.plugins has it, which would cost --help its imports."""


@click.group()
def engine() -> None:
    """Install, list and check engine environments.

    An engine runs from a Python environment of its own, never from tri-serve's. A managed one is made by
    `engine install` in the data directory; engine.python or engine.command in the spec name your own.
    """


@engine.command()
@click.argument("requirement", required=False, metavar="[vllm==VERSION]")
@click.option("--cpu", "device", flag_value="cpu", help="The CPU build, also where a GPU is.")
@click.option("--cuda", "device", flag_value="cuda", help="The CUDA build, also where no GPU is.")
@click.option(
    "--plugin",
    type=click.Choice([BITSANDBYTES]),
    help="Add what checkpoints stored in this way need; `up` does so by itself.",
)
@click.option("--reinstall", is_flag=True, help="Make it anew even if it is there.")
def install(requirement: str | None, device: str | None, plugin: str | None, reinstall: bool) -> None:
    """Make a managed engine environment.

    Without a version: the one that tri-serve is tested with, from pinned packages whose hashes are checked.
    Any other version is resolved anew. Nothing is done if the environment is there already.
    """
    from tri_serve.launch.device import detect_device
    from tri_serve.launch.install import install_environment
    from tri_serve.launch.plugins import install_plugin, plugin_for

    spec = _engine_spec(requirement, device)
    environment = install_environment(
        spec.version,
        detect_device(spec.device) if spec.device == "auto" else spec.device,
        data_dir(),
        lambda line: click.echo(line, err=True),
        kind=spec.kind,
        reinstall=reinstall,
    )
    if plugin is not None and (needed := plugin_for(spec.kind, spec.version, plugin)) is not None:
        install_plugin(environment, needed, lambda line: click.echo(line, err=True))
    click.echo(environment.path)


@engine.command(name="list")
@output_option()
@spec_options
def list_(selection: SpecSelection, output: str) -> None:
    """List the managed environments, and the one that the spec names (marked with *)."""
    from tri_serve.launch.device import detect_device
    from tri_serve.launch.environment import find_environment, list_environments

    spec = selection.load().spec.engine
    managed = list_environments(data_dir())
    named: EngineEnvironment | None
    try:
        named = find_environment(spec, data_dir(), detect_device(spec.device))
        missing = None
    except EngineEnvironmentError as error:
        named, missing = None, error
    shown = managed if named is None or named.managed else [*managed, named]
    if output == "table":
        rows = [_row(environment, named) for environment in shown]
        print_table(("", "engine", "device", "python", "torch", "size", "where"), rows)
        if missing is not None:
            click.echo(f"the spec's engine: {missing.message}", err=True)
            click.echo(f"hint: {missing.hint}", err=True)
    else:
        print_data([_facts(environment, named) for environment in shown], output)


@engine.command()
@click.option("--engine", "requirement", metavar="vllm==VERSION", help="This managed one, not the spec's.")
@click.option("--cpu", "device", flag_value="cpu", help="With --engine: its CPU build.")
@click.option("--cuda", "device", flag_value="cuda", help="With --engine: its CUDA build.")
@output_option()
@spec_options
def check(selection: SpecSelection, requirement: str | None, device: str | None, output: str) -> None:
    """Import the engine that the spec names in its environment, and say what it is and sees.

    Takes some 15 seconds. Ends with 13 if the environment is missing or cannot run the engine.
    """
    from tri_serve.launch.check import check_environment
    from tri_serve.launch.device import detect_device
    from tri_serve.launch.environment import find_environment

    spec = selection.load().spec.engine if requirement is None else _engine_spec(requirement, device)
    report = check_environment(find_environment(spec, data_dir(), detect_device(spec.device)))
    if output == "table":
        print_table(
            ("fact", "value"), [*report.facts.items(), ("result", "ready" if report.ok else "broken")]
        )
    else:
        print_data({**report.facts, "ok": report.ok, "problems": list(report.problems)}, output)
    if not report.ok:
        raise EngineEnvironmentError(
            "; ".join(report.problems),
            hint="tri-serve engine install --reinstall"
            if report.environment.managed
            else "mend that environment, or leave engine.python and engine.command out to use the managed one",
        )


def _engine_spec(requirement: str | None, device: str | None) -> EngineSpec:
    from pydantic import ValidationError

    from tri_serve.spec.engine import EngineSpec

    fields: dict[str, Any] = {"device": device or "auto"}
    if requirement is not None:
        match = re.fullmatch(
            r"(?:(?P<kind>[a-z]+)==)?(?P<version>\d[0-9a-z.]*)|(?P<bare>[a-z]+)", requirement
        )
        if match is None:
            raise UsageError(
                f"{requirement!r} names no engine", hint="e.g. tri-serve engine install vllm==0.32.0"
            )
        fields["kind"] = match["kind"] or match["bare"] or "vllm"
        if match["version"]:
            fields["version"] = match["version"]
    try:
        named = EngineSpec.model_validate(fields)
    except ValidationError as error:
        raise _no_engine(requirement) from error
    if named.kind != "vllm":
        raise _no_engine(requirement)
    return named


def _no_engine(requirement: str | None) -> UsageError:
    return UsageError(
        f"{requirement!r} names no engine that tri-serve runs: vllm==VERSION is allowed",
        hint="e.g. tri-serve engine install vllm==0.32.0",
    )


def _row(environment: EngineEnvironment, named: EngineEnvironment | None) -> tuple[str, ...]:
    facts = _facts(environment, named)
    size = f"{facts['bytes'] / 2**30:.1f} GiB" if facts["bytes"] else "-"
    mark = "*" if facts["named"] else ""
    return (
        mark,
        f"{facts['kind']} {facts['version']}",
        facts["device"],
        facts["python"] or "-",
        facts["torch"] or "-",
        size,
        facts["where"],
    )


def _facts(environment: EngineEnvironment, named: EngineEnvironment | None) -> dict[str, Any]:
    marker = environment.marker
    where = str(environment.path) if environment.path is not None else " ".join(environment.command)
    return {
        "kind": environment.kind,
        "version": environment.version,
        "device": environment.device,
        "managed": environment.managed,
        "named": environment == named,
        "python": marker.python if marker else None,
        "torch": marker.torch if marker else None,
        "packages": marker.packages if marker else None,
        "bytes": marker.bytes if marker else None,
        "created": marker.created if marker else None,
        "where": where,
    }
