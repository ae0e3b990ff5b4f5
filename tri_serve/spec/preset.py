"""The specs that ship with tri-serve: ``presets/*.yaml``, each with an ``about:`` block beside the spec."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from tri_serve.errors import SpecError
from tri_serve.spec.document import DocumentReader
from tri_serve.spec.origin import Origin
from tri_serve.spec.tree import Section, plain

DEFAULT_PRESET = "tri-tiny-awq"


@dataclass(frozen=True)
class Preset:
    """A shipped spec. ``summary`` is one line; ``notes`` are facts that whoever uses it must be told;
    ``needs`` says for each key that it leaves to the user what to give."""

    name: str
    summary: str
    notes: tuple[str, ...]
    needs: Mapping[str, str]
    layer: Section


def preset_names() -> tuple[str, ...]:
    """Names of all presets: the default one first, the others by name."""
    folder = resources.files("tri_serve.spec") / "presets"
    names = sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )
    return tuple(sorted(names, key=lambda name: name != DEFAULT_PRESET))


def load_preset(name: str, *, origin: Origin | None = None) -> Preset:
    """Read one preset. ``origin`` is where its name was given.

    Raises SpecError for an unknown name, naming the nearest.
    """
    names = preset_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        place = f"{origin}: preset: " if origin else ""
        ask = f"; the nearest is {close[0]}" if close else ""
        hint = f"to read a file: -f {name}" if "." in name or "/" in name else "tri-serve presets lists them"
        raise SpecError(f"{place}no preset is named {name!r}{ask}", hint=hint, source=name)
    text = (resources.files("tri_serve.spec") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    top = DocumentReader(text, place=Origin("preset", name)).read()
    assert isinstance(top, Section)
    children = dict(top.children)
    about = plain(children.pop("about"))
    assert isinstance(about, dict)
    summary, notes, needs = about["summary"], about.get("notes", ()), about.get("needs", {})
    assert isinstance(summary, str)
    assert isinstance(notes, tuple)
    assert isinstance(needs, dict)
    return Preset(
        name=name,
        summary=summary,
        notes=tuple(str(note) for note in notes),
        needs={key: str(words) for key, words in needs.items()},
        layer=Section(children, top.origin),
    )
