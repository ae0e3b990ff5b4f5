"""From preset, files, variables and flags to one checked spec that knows where each value came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from tri_serve.errors import SpecError
from tri_serve.spec.document import DocumentReader, read_text
from tri_serve.spec.keys import catalogue
from tri_serve.spec.models import Spec
from tri_serve.spec.origin import DEFAULT, Origin
from tri_serve.spec.overrides import sets_layer, variables_layer
from tri_serve.spec.paths import absolute_paths
from tri_serve.spec.preset import DEFAULT_PRESET, Preset, load_preset
from tri_serve.spec.problems import (
    Problem,
    describe,
    error_of,
    known_part,
    structure_problems,
    validation_problems,
)
from tri_serve.spec.tree import (
    Node,
    Scalar,
    Section,
    find,
    is_null,
    leaves,
    merge,
    nest,
    plain,
    without_nulls,
)

PRESET_SOURCE = "preset:"
"""What ``model.source`` begins with where ``without_source`` let the preset stand in for a checkpoint."""


@dataclass(frozen=True)
class LoadedSpec:
    """A spec with its history.

    ``origins`` has one entry for each leaf key, dotted (``gateway.timeouts.drain``; the engine's variables as
    ``engine.env.NAME``). ``notes`` are what the user of this preset must be told.
    """

    spec: Spec
    origins: Mapping[str, Origin]
    preset: str | None
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    base: Preset | None = None

    @property
    def has_source(self) -> bool:
        """Whether ``model.source`` was given: false only for a spec loaded ``without_source``."""
        return not self.spec.model.source.startswith(PRESET_SOURCE)


@dataclass
class _Reading:
    """What the layers gave so far."""

    layers: list[Section] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    preset: tuple[str, Origin] | None = None

    def add(self, layer: Section) -> None:
        """One more layer, on top of the others."""
        filled = _fill_empty_sections(layer)
        self.problems += structure_problems(filled)
        self.layers.append(known_part(filled))


def load_spec(
    preset: str | None,
    files: Sequence[Path],
    environ: Mapping[str, str],
    sets: Sequence[str] = (),
    set_strings: Sequence[str] = (),
    *,
    gpu: str | None = None,
    without_source: bool = False,
) -> LoadedSpec:
    """Merge preset < what it says for ``gpu`` < files in order < TRI_SERVE_* < --set < --set-string, and check it.

    The base is ``preset``; if that is None the ``preset:`` of the last file that names one; with files that
    name none, nothing but the models' defaults; without files, tri-tiny-awq. A null resets a key to the
    models' default. ``gpu`` is a device by the catalogue's name: ``cpu`` or a GPU, which ``engine.device`` then is;
    most presets say nothing else of most of them.
    ``without_source``: where the preset leaves model.source to its user, but knows the architecture, it stands in
    for the checkpoint itself, as ``preset:NAME``, which can be planned and not served.
    Raises SpecError with every mistake, one line each.
    """
    reading = _Reading()
    for path in files:
        _read_file(path, reading)
    if preset is not None:
        reading.preset = (preset, Origin("flag", "preset"))
    elif reading.preset is None and not files:
        reading.preset = (DEFAULT_PRESET, DEFAULT)
    base: Preset | None = None
    if reading.preset is not None:
        name, origin = reading.preset
        base = load_preset(name, origin=origin if origin.kind == "file" else None)
        overlay = base.gpus.get(gpu) if gpu else None
        reading.layers[:0] = [base.layer, *([overlay] if overlay else [])]
    for layer in variables_layer(environ):
        reading.add(layer)
    reading.layers += _device_layer(gpu)
    for layer in sets_layer(sets, set_strings):
        reading.add(layer)
    merged = Section({}, DEFAULT)
    for layer in reading.layers:
        merged = merge(merged, layer)
    merged = absolute_paths(without_nulls(merged))
    if without_source and base is not None and base.config is not None:
        merged = _with_source(merged, base)
    spec = _validate(merged, reading.problems, base)
    return LoadedSpec(
        spec=spec,
        origins=_origins(merged),
        preset=base.name if base else None,
        files=tuple(files),
        notes=base.notes if base else (),
        base=base,
    )


def _device_layer(gpu: str | None) -> Sequence[Section]:
    """What choosing a device says of ``engine.device``."""
    if gpu is None:
        return ()
    kind, origin = ("cpu" if gpu == "cpu" else "cuda"), Origin("flag", "--gpu")
    return (nest(("engine", "device"), Scalar(kind, kind, origin, quoted=True), origin),)


def _with_source(merged: Section, base: Preset) -> Section:
    """The tree, the preset itself for model.source if nobody gave one."""
    source = ("model", "source")
    if find(merged, source) is not None:
        return merged
    name = f"{PRESET_SOURCE}{base.name}"
    return merge(merged, nest(source, Scalar(name, name, DEFAULT, quoted=True), DEFAULT))


def _read_file(path: Path, reading: _Reading) -> None:
    reader = DocumentReader(read_text(path), place=Origin("file", str(path)))
    top = reader.read()
    if top is None or is_null(top):
        raise SpecError(f"{path}: empty", hint="tri-serve init writes a file to start from", source=str(path))
    if not isinstance(top, Section):
        allowed = ", ".join(key[0] for key in catalogue() if len(key) == 1)
        raise SpecError(
            f"{path}: found {describe(top)}; a spec has the keys preset, {allowed}", source=str(path)
        )
    reading.problems += [Problem(origin, key, words) for origin, key, words in reader.mistakes]
    children = dict(top.children)
    named = children.pop("preset", None)
    if isinstance(named, Scalar) and isinstance(named.value, str):
        reading.preset = (named.value, named.origin)
    elif named is not None and is_null(named):
        reading.preset = None
    elif named is not None:
        # Without its base, most of the rest would be reported as missing.
        words = f"found {describe(named)}; takes the name of a preset"
        raise error_of([Problem(named.origin, "preset", words)], hint="tri-serve presets lists them")
    reading.add(Section(children, top.origin))


def _fill_empty_sections(section: Section, path: tuple[str, ...] = ()) -> Section:
    """``gateway:`` with every key under it commented out says nothing, where ``gateway: null`` resets."""
    children: dict[str, Node] = {}
    for name, node in section.children.items():
        if isinstance(node, Section):
            node = _fill_empty_sections(node, (*path, name))
        elif isinstance(node, Scalar) and node.value is None and node.text == "":
            key = catalogue().get((*path, name))
            if key is not None and (key.is_section or key.open):
                node = Section({}, node.origin)
        children[name] = node
    return Section(children, section.origin)


def _validate(merged: Section, problems: list[Problem], base: Preset | None) -> Spec:
    values = plain(merged)
    assert isinstance(values, dict)
    # So that a missing key is reported by its own name and not by its section's.
    values.setdefault("model", {})
    try:
        spec = Spec.model_validate(values)
    except ValidationError as error:
        found = tuple(validation_problems(error, merged))
        missing = {problem.key for problem in found if find(merged, tuple(problem.key.split("."))) is None}
        found = tuple(_with_need(problem, base) if problem.key in missing else problem for problem in found)
        raise error_of((*problems, *found), hint=_hint(missing, base)) from error
    if problems:
        raise error_of(problems)
    return spec


def _with_need(problem: Problem, base: Preset | None) -> Problem:
    """A missing key, in the words of the preset that leaves it to its user."""
    if base is None or problem.key not in base.needs:
        return problem
    return Problem(
        problem.origin, problem.key, f"preset {base.name} leaves it to you: {base.needs[problem.key]}"
    )


def _hint(missing: set[str], base: Preset | None) -> str | None:
    if base is None and missing & {"model.source", "model.served_name"}:
        return f"a file can build on a preset: `preset: {DEFAULT_PRESET}` at its top"
    if "model.source" in missing:
        return "give one with --set model.source=/path/to/checkpoint, or in tri-serve.yaml"
    return None


def _origins(merged: Section) -> Mapping[str, Origin]:
    origins: dict[str, Origin] = {}
    said = {path: node.origin for path, node in leaves(merged)}
    # What takes either a value or keys.
    choices = {path for path, key in catalogue().items() if key.has_keys and not key.is_section}
    for path, key in catalogue().items():
        if key.is_section:
            continue
        below = find(merged, path)
        if path[:-1] in choices and not isinstance(find(merged, path[:-1]), Section):
            continue  # a plain value stands there instead
        if key.has_keys and isinstance(below, Section):
            continue  # the keys below it follow
        if key.open and isinstance(below, Section) and below.children:
            origins |= {".".join(leaf): origin for leaf, origin in said.items() if leaf[: len(path)] == path}
        else:
            origins[key.dotted] = said.get(path, DEFAULT)
    return origins
