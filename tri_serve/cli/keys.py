"""``tri-serve keys``: make, list and disable client keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tri_serve.cli.options import output_option

Command = TypeVar("Command", bound=Callable[..., Any])


def _file_option(command: Command) -> Command:
    return click.option(
        "--file",
        "file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File of hashed keys, as in gateway.keys_file. [default: keys.json in tri-serve's data folder]",
    )(command)


def _path(file: Path | None) -> Path:
    from tri_serve.fleet.keys import default_keys_file

    return file.expanduser().absolute() if file else default_keys_file()


@click.group()
def keys() -> None:
    """Make and list client keys.

    Only hashes are kept, so a key is shown once. A running gateway takes changes over with `tri-serve up` or
    `tri-serve restart gateway`.
    """


@keys.command()
@click.argument("name")
@_file_option
def create(name: str, file: Path | None) -> None:
    """Make a key and print it, this once."""
    from tri_serve.fleet.keys import create_key

    path = _path(file)
    key = create_key(path, name)
    click.echo(key)
    click.echo(f"its hash is in {path}; the key itself is shown only now", err=True)
    if file is not None:
        click.echo(f"the spec has to name that file: gateway.keys_file: {path}", err=True)


@keys.command(name="list")
@_file_option
@output_option()
def list_(file: Path | None, output: str) -> None:
    """List names of keys, and since when they are valid or disabled."""
    from tri_serve.cli.output import print_data, print_table
    from tri_serve.fleet.keys import KeyFile, read_keys

    path = _path(file)
    found = read_keys(path) if file is not None or path.exists() else KeyFile()
    if output != "table":
        print_data([key.model_dump(exclude={"sha256"}) for key in found.keys], output)
    elif found.keys:
        print_table(
            ("name", "created", "disabled"), [(key.name, key.created, key.disabled) for key in found.keys]
        )
    else:
        click.echo(f"no client keys in {path}; tri-serve keys create NAME makes one", err=True)


@keys.command()
@click.argument("name")
@_file_option
def disable(name: str, file: Path | None) -> None:
    """Make a key invalid. Its name stays taken, so that logs stay clear."""
    from tri_serve.fleet.keys import disable_key

    changed = disable_key(_path(file), name)
    click.echo(f"{name} is disabled" if changed else f"{name} was disabled already")
    if changed:
        click.echo("a running gateway learns of it with `tri-serve restart gateway`", err=True)
