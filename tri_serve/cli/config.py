"""Commands about the spec itself: init, presets, schema, config show."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tri_serve.cli.notices import print_notices
from tri_serve.cli.options import SPEC_FILE, SpecSelection, gpu_option, output_option, spec_options
from tri_serve.cli.output import print_data, print_table, yaml_text
from tri_serve.errors import UsageError

if TYPE_CHECKING:
    from tri_serve.spec.load import LoadedSpec


@click.command()
@click.argument("preset", required=False, envvar="TRI_SERVE_PRESET")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=SPEC_FILE,
    show_default=True,
    help="File to write; - for stdout.",
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def init(preset: str | None, output: Path, force: bool) -> None:
    """Write a commented tri-serve.yaml.

    It builds on PRESET (tri-tiny-awq if none is named) and lists every key with its meaning and the value it
    has, commented out. An existing file is not touched without --force.
    """
    from tri_serve.spec.preset import DEFAULT_PRESET, load_preset
    from tri_serve.spec.starter import starter_file

    chosen = load_preset(preset or DEFAULT_PRESET)
    text = starter_file(chosen)
    if str(output) == "-":
        click.echo(text, nl=False)
        return
    write_file(output, text, force=force)
    print_notices(chosen.notes, always=True)
    for key in chosen.needs:
        click.echo(f"{output}: set {key} before you start", err=True)
    click.echo(f"wrote {output}; next: tri-serve up", err=True)


def write_file(path: Path, text: str, *, force: bool) -> None:
    """Write the whole file or nothing. Raises UsageError if it exists and ``force`` is not given."""
    if not force:
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as error:
            raise UsageError(f"{path} exists; it was not touched", hint="--force replaces it") from error
        return
    try:
        _replace_file(path, text)
    except OSError as error:
        # Name the file that was asked for, not the temporary one beside it.
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace_file(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        # mkstemp makes it 0600; a spec stays as readable as it was, or as open() would have made it.
        temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@click.command()
@output_option()
def presets(output: str) -> None:
    """List the specs that ship with tri-serve."""
    from tri_serve.spec.preset import load_preset, preset_names

    found = [load_preset(name) for name in preset_names()]
    if output == "table":
        print_table(["PRESET", "WHAT IT IS"], [[preset.name, preset.summary] for preset in found])
        for note in dict.fromkeys(note for preset in found for note in preset.notes):
            *names, last = (preset.name for preset in found if note in preset.notes)
            whose = f"{', '.join(names)} and {last}" if names else last
            click.echo()
            click.echo(click.wrap_text(f"{whose}: {note}", 78, subsequent_indent="  "))
        return
    fields = [
        {
            "name": preset.name,
            "summary": preset.summary,
            "needs": dict(preset.needs),
            "notes": list(preset.notes),
        }
        for preset in found
    ]
    print_data(fields, output)


@click.command()
def schema() -> None:
    """Print the JSON schema of tri-serve.yaml.

    Editors complete and check the file with it: save it, and name it in the file's first line as
    `# yaml-language-server: $schema=PATH`.
    """
    from tri_serve.spec.schema import file_schema

    print_data(file_schema(), "json")


@click.group()
def config() -> None:
    """Show the spec that the other commands would use."""


@config.command()
@spec_options
@gpu_option
@click.option("--origin", is_flag=True, help="Say of each value where it comes from.")
@output_option("yaml")
def show(selection: SpecSelection, origin: bool, output: str) -> None:
    """Show the whole spec: PRESET < its settings for --gpu < files < TRI_SERVE_* variables < --set.

    Secrets among the engine's variables are masked.
    """
    from tri_serve.spec.difference import printable

    loaded = selection.load()
    print_notices(loaded.notes)
    if output == "table" or (origin and output == "yaml"):
        _show_lines(loaded, origin=origin, output=output)
    elif origin:
        fields = {
            key: {"value": value, "origin": str(loaded.origins[key])} for key, value in _flat(loaded).items()
        }
        print_data(fields, output)
    else:
        print_data(printable(loaded.spec), output)


def _flat(loaded: LoadedSpec) -> dict[str, Any]:
    from tri_serve.spec.difference import flat_values
    from tri_serve.spec.secrets import mask_value

    return {".".join(path): mask_value(path, value) for path, value in flat_values(loaded.spec).items()}


def _show_lines(loaded: LoadedSpec, *, origin: bool, output: str) -> None:
    from tri_serve.spec.difference import printable

    if output == "table":
        rows = [
            [key, *([str(loaded.origins[key])] if origin else []), value]
            for key, value in _flat(loaded).items()
        ]
        print_table(["KEY", *(["ORIGIN"] if origin else []), "VALUE"], rows)
        return
    for line in _commented_yaml(printable(loaded.spec), loaded, ()):
        click.echo(line)


def _commented_yaml(tree: dict[str, Any], loaded: LoadedSpec, path: tuple[str, ...]) -> list[str]:
    """Block YAML, each value followed by its origin as a comment: still a file that loads."""
    lines: list[str] = []
    indent = "  " * len(path)
    for name, value in tree.items():
        here = (*path, name)
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}:", *_commented_yaml(value, loaded, here)]
            continue
        words = yaml_text({name: value}).rstrip("\n").splitlines()
        place = loaded.origins[".".join(here)]
        lines += [f"{indent}{words[0]}  # {place}", *(indent + word for word in words[1:])]
    return lines
