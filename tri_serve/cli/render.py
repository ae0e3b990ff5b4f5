"""``tri-serve render``: the command for one engine as a file that others run."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tri_serve.cli.notices import print_notices
from tri_serve.cli.options import SpecSelection, gpu_option, spec_options
from tri_serve.cli.output import print_notes

if TYPE_CHECKING:
    from tri_serve.spec.engine import EngineKind
    from tri_serve.spec.load import LoadedSpec

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def render() -> None:
    """Print the command of one engine, for a machine of your own.

    Nothing is started, and no engine has to be here. engine.kind is vllm or sglang; every flag is one that
    engine.version has. gateway.host and gateway.port say where the engine listens (the port only if you set it);
    what the engine does anyway is left out. No secret of engine.env is printed. `tri-serve up` needs none of this.
    """


def _render_options(command: Command) -> Command:
    """What every form of an engine takes: the spec, --gpu, --output, --force and --allow-refused."""

    @click.option(
        "--allow-refused",
        is_flag=True,
        help="Write it although tri-serve plan refuses it on --gpu; the file begins with what is refused.",
    )
    @_file_options
    @functools.wraps(command)
    def with_options(selection: SpecSelection, output: Path | None, force: bool, allow_refused: bool) -> None:
        command(selection=selection, output=output, force=force, refused=_refused(selection, allow_refused))

    return with_options  # type: ignore[return-value]  # the parameters that click passes have changed


def _file_options(command: Command) -> Command:
    """The spec, --gpu, --output and --force."""

    @spec_options
    @gpu_option
    @click.option(
        "--output", type=click.Path(path_type=Path), help="File to write, in place of stdout; - for stdout."
    )
    @click.option("--force", is_flag=True, help="Replace the file if it exists.")
    @functools.wraps(command)
    def with_options(selection: SpecSelection, output: Path | None, force: bool, **more: Any) -> None:
        command(selection=selection, output=output, force=force, **more)

    return with_options  # type: ignore[return-value]  # the parameters that click passes have changed


@render.command()
@_render_options
def shell(selection: SpecSelection, output: Path | None, force: bool, refused: Sequence[str]) -> None:
    """A POSIX shell script that becomes the engine.

    Secrets come from its environment, or from the file that SECRETS_FILE names. Arguments of the script are the
    engine's.
    """
    from tri_serve.launch.standalone import remarks, standalone_launch
    from tri_serve.render.shell import shell_script
    from tri_serve.render.text import with_refusals

    loaded = selection.load()
    config = standalone_launch(loaded.spec, port=_port(loaded))
    text = shell_script(loaded.spec, config, command=_written("shell", selection, refused))
    _give(with_refusals(text, refused), output, force=force, mode=0o755)
    print_notices(loaded.notes)
    print_notes(remarks(loaded.spec))


@render.command()
@_render_options
def env(selection: SpecSelection, output: Path | None, force: bool, refused: Sequence[str]) -> None:
    """The engine's variables, without secrets.

    One NAME=value a line, for docker run --env-file and systemd's EnvironmentFile= alike; a value that the two
    would read differently is refused.
    """
    from tri_serve.launch.standalone import standalone_launch
    from tri_serve.render.env import env_file
    from tri_serve.render.text import with_refusals

    loaded = selection.load()
    config = standalone_launch(loaded.spec, port=_port(loaded))
    text = env_file(loaded.spec, config, command=_written("env", selection, refused))
    _give(with_refusals(text, refused), output, force=force)
    print_notices(loaded.notes)


@render.command()
@_render_options
def compose(selection: SpecSelection, output: Path | None, force: bool, refused: Sequence[str]) -> None:
    """A Docker Compose file with the engines.

    Each is a service in the engine's own image, or in engine.image. Ports are published at gateway.host, which is
    this machine alone unless you say otherwise.
    """
    from tri_serve.launch.standalone import container_launch, remarks
    from tri_serve.render.compose import compose_file
    from tri_serve.render.text import with_refusals

    loaded = selection.load()
    config = container_launch(loaded.spec, port=_port(loaded))
    text = compose_file(loaded.spec, config, command=_written("compose", selection, refused))
    _give(with_refusals(text, refused), output, force=force)
    engines = loaded.spec.fleet.initial_replicas
    print_notices(loaded.notes)
    print_notes(remarks(loaded.spec, engines=engines))


@render.command()
@_render_options
def systemd(selection: SpecSelection, output: Path | None, force: bool, refused: Sequence[str]) -> None:
    """A systemd unit that runs one engine.

    It runs as a user of its own. engine.command or engine.python say where the engine is; without them it is looked
    for in systemd's PATH.
    """
    from tri_serve.launch.standalone import remarks, standalone_launch
    from tri_serve.render.systemd import seen_words, systemd_unit, unit_name
    from tri_serve.render.text import with_refusals

    loaded = selection.load()
    config = standalone_launch(loaded.spec, port=_port(loaded))
    text = systemd_unit(loaded.spec, config, command=_written("systemd", selection, refused))
    _give(with_refusals(text, refused), output, force=force)
    print_notices(loaded.notes)
    print_notes(
        (
            *remarks(loaded.spec),
            *seen_words(loaded.spec, config),
            *_install_words(unit_name(loaded.spec), loaded.spec.engine.kind, config.argv[0]),
        )
    )


@render.command()
@_file_options
def quickstart(selection: SpecSelection, output: Path | None, force: bool) -> None:
    """A Python script that asks one question.

    It loads the model through transformers, without a server.
    """
    from tri_serve.launch.quickstart import quickstart as script

    loaded = selection.load()
    _give(script(loaded.spec, command=_written("quickstart", selection)), output, force=force)
    print_notices(loaded.notes)


def _install_words(name: str, kind: EngineKind, program: str) -> tuple[str, ...]:
    if program.startswith("/"):
        return ()
    from tri_serve.launch.standalone import installed_command

    example = ",".join(installed_command(kind))
    return (
        f"{name}.service finds {program} only in systemd's own PATH; if it is elsewhere: "
        f"--set engine.command=[{example}] (yours), for example.",
    )


def _refused(selection: SpecSelection, allowed: bool) -> tuple[str, ...]:
    """What a plan for the GPU that was named refuses, for whoever knows better and allows it.

    Raises LaunchError, with what works, if that is not allowed.
    """
    if selection.gpu is None:
        return ()
    from tri_serve.cli.plan_answer import Asked, answer
    from tri_serve.errors import LaunchError, TriServeError
    from tri_serve.plan.make import Question
    from tri_serve.plan.words import options_of

    try:
        plan = answer(selection, selection.gpu, Asked(Question())).plan
    except TriServeError:  # what cannot be planned is not refused: the checkpoint may lie elsewhere
        return ()
    refusals = [finding for finding in plan.findings if finding.severity == "refusal"]
    words = tuple(f"tri-serve plan refuses this on {plan.device.title}: {one.message}" for one in refusals)
    if words and not allowed:
        works = [f"{options_of(one.change)} works" for one in refusals if one.change]
        raise LaunchError(
            "\n".join(words), hint="; ".join([*works, "--allow-refused writes the file all the same"])
        )
    return words


def _port(loaded: LoadedSpec) -> int | None:
    """The port that somebody asked for; none: the engine's own default."""
    from tri_serve.spec.origin import DEFAULT

    return None if loaded.origins["gateway.port"] == DEFAULT else loaded.spec.gateway.port


def _written(form: str, selection: SpecSelection, refused: Sequence[str] = ()) -> str:
    """The command line that makes the same file again, on one line and without secrets."""
    from tri_serve.spec.secrets import mask_assignment

    words = ["tri-serve", "render", form, *([selection.preset] if selection.preset else [])]
    words += [word for path in selection.files for word in ("-f", str(path))]
    words += ["--gpu", selection.gpu] if selection.gpu else []
    words += ["--allow-refused"] if refused else []
    words += [word for said in selection.sets for word in ("--set", mask_assignment(said))]
    words += [word for said in selection.set_strings for word in ("--set-string", mask_assignment(said))]
    return " ".join(shlex.join(words).split())


def _give(text: str, output: Path | None, *, force: bool, mode: int | None = None) -> None:
    if output is None or str(output) == "-":
        click.echo(text, nl=False)
        return
    from tri_serve.cli.config import write_file

    write_file(output, text, force=force)
    if mode is not None:
        output.chmod(mode)
    click.echo(f"wrote {output}", err=True)
