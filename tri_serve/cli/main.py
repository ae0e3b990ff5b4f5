"""``tri-serve``: the entry point, the table of commands, and how an error ends a command.

Commands are imported when they are called, and their one-liners stand in the table, so that ``--help`` costs
little more than importing click.
"""

from __future__ import annotations

import difflib
import errno
import gc
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from tri_serve import __version__
from tri_serve.cli.entry import INTERRUPTED
from tri_serve.cli.terminal import colour
from tri_serve.errors import TriServeError

if TYPE_CHECKING:
    from collections.abc import Mapping

ENVIRONMENT_PREFIX = "TRI_SERVE"
"""Every option has a variable of this prefix: ``tri-serve up --foreground`` TRI_SERVE_UP_FOREGROUND."""

COLLECT_EVERY = (50_000, 20, 50)
"""Objects, and collections of younger ones, between two collections: gc.set_threshold's three numbers."""


@dataclass(frozen=True)
class Entry:
    """Where a command is (``module:attribute``), and its one line in ``--help``."""

    target: str
    summary: str

    def load(self) -> click.Command:
        """Import the command."""
        module, _, attribute = self.target.partition(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self.target} is not a click command")
        return command


COMMANDS: Mapping[str, Entry] = {
    "init": Entry("tri_serve.cli.config:init", "Write a commented tri-serve.yaml."),
    "presets": Entry("tri_serve.cli.config:presets", "List the specs that ship with tri-serve."),
    "schema": Entry("tri_serve.cli.config:schema", "Print the JSON schema of tri-serve.yaml."),
    "config": Entry("tri_serve.cli.config:config", "Show the spec that the other commands would use."),
    "plan": Entry("tri_serve.cli.plan:plan", "Say what fits, how fast it should be, and what to change."),
    "render": Entry(
        "tri_serve.cli.render:render", "Print the command of one engine, for a machine of your own."
    ),
    "checkpoint": Entry("tri_serve.cli.checkpoint:checkpoint", "Fetch, inspect and make checkpoints."),
    "engine": Entry("tri_serve.cli.engine:engine", "Install, list and check engine environments."),
    "up": Entry("tri_serve.cli.fleet:up", "Start the fleet that the spec describes, or change it."),
    "status": Entry("tri_serve.cli.fleet:status", "Show gateway and replicas of a release."),
    "chat": Entry("tri_serve.cli.chat:chat", "Talk to the served model."),
    "logs": Entry("tri_serve.cli.fleet:logs", "Print the logs of a release: all of them, or one."),
    "scale": Entry("tri_serve.cli.fleet:scale", "Run another number of replicas, without losing a request."),
    "restart": Entry(
        "tri_serve.cli.fleet:restart",
        "Restart one engine, the gateway, or every engine, one after the other.",
    ),
    "down": Entry(
        "tri_serve.cli.fleet:down", "Stop everything that up started for the release, and only that."
    ),
    "keys": Entry("tri_serve.cli.keys:keys", "Make and list client keys."),
    "load": Entry("tri_serve.cli.load:load", "Say what a server does under load, in figures to be believed."),
}


class CommandTable(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table: the order in which they are needed."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None if the table has no such name."""
        entry = COMMANDS.get(cmd_name)
        return entry.load() if entry else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or fail naming the nearest ones."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=3, cutoff=0.5)
            ask = f"; did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"no such command: {name!r}{ask}", ctx=ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours ends it with one message and its own exit code."""
        try:
            return super().invoke(ctx)
        except (TriServeError, OSError) as error:
            # A closed pipe is not this program's failure; `run` ends it quietly.
            if isinstance(error, BrokenPipeError):
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            show_error(describe(error), getattr(error, "hint", None))
            ctx.exit(getattr(error, "exit_code", TriServeError.exit_code))


def describe(error: TriServeError | OSError) -> str:
    """One line for an error; an operating system's error with the file it is about."""
    if isinstance(error, OSError) and error.errno == errno.EBADF and error.filename is None:
        return "stdout is closed: there is nowhere to write to"
    if isinstance(error, OSError) and error.strerror:
        names = ": ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return f"{names}: {error.strerror}" if names else error.strerror
    return str(error)


def show_error(message: str, hint: str | None = None) -> None:
    """Write an error, and what to do about it, to stderr, without what URLs in them keep secret."""
    from tri_serve.spec.secrets import mask_urls

    message, hint = mask_urls(message), mask_urls(hint or "")
    click.echo(
        f"{click.style('error:', fg='red', bold=True)} {_printable(message)}", err=True, color=colour()
    )
    if hint:
        click.echo(f"{click.style('hint:', bold=True)} {_printable(hint)}", err=True, color=colour())


def _printable(text: str) -> str:
    """What a file holds may stand in a message, but must not steer the terminal, nor keep it from being shown."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


@click.group(
    cls=CommandTable,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": ENVIRONMENT_PREFIX},
)
@click.version_option(__version__, message="tri-serve %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Serve one 4-bit language model: a vLLM engine behind a fast OpenAI gateway.

    `tri-serve up` with nothing else serves a tiny checkpoint on this machine; tri-serve.yaml says what to
    serve instead. Every option can be given as an environment variable too: TRI_SERVE_, the command, the
    option (TRI_SERVE_UP_FOREGROUND=1).
    """


def run(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: what the command returned if that is a number, else 0.

    Errors have been written to stderr.
    """
    outcome = None
    try:
        outcome = cli.main(
            args=None if args is None else list(args),
            prog_name="tri-serve",
            standalone_mode=False,
            color=colour(),
        )
        sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "tri-serve"
        show_error(error.format_message(), f"{path} --help" if isinstance(error, click.UsageError) else None)
        return error.exit_code
    except BrokenPipeError:
        # The reader left (`tri-serve presets | head -1`).
        _write_no_more()
        return TriServeError.exit_code
    except OSError as error:
        # What was printed could not be written: a full disk, or stdout closed. A command that met it has said so.
        _write_no_more()
        if not outcome:
            show_error(describe(error))
        return TriServeError.exit_code
    return outcome if isinstance(outcome, int) else 0


def _write_no_more() -> None:
    """What Python still holds for stdout would fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """The console script."""
    # What a command imports is some 100,000 objects that stay; looking for garbage among them at the usual pace is
    # an eighth of the time of `plan show`. Commands that go on for long still collect theirs.
    gc.set_threshold(*COLLECT_EVERY)
    # pydantic would look through every installed package for plugins; engines do not inherit this.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    sys.exit(run())


if __name__ == "__main__":
    main()
