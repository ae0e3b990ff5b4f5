"""The specs that ship with tri-serve: ``presets/*.yaml``, each with an ``about:`` block beside the spec.

What several presets have in common about one model stands once, in ``presets/models/``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from tri_serve.errors import SpecError
from tri_serve.spec.document import DocumentReader
from tri_serve.spec.origin import Origin
from tri_serve.spec.tree import Items, Node, Scalar, Section, replaced_origin

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
    config: Mapping[str, Any] | None = None
    """What the checkpoint's config.json says, so that it can be planned before it is there; none where the
    preset names a checkpoint."""
    gpus: Mapping[str, Section] = field(default_factory=dict)
    """What this preset says otherwise on one kind of GPU, by the catalogue's name for it."""


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
    top = _read(f"{name}.yaml", Origin("preset", name))
    children = dict(top.children)
    about = children.pop("about")
    assert isinstance(about, Section)
    said = {key: _data(node) for key, node in about.children.items() if key != "gpus"}
    model = _model(said["model"]) if "model" in said else {}
    config = model.get("config")
    if config is not None and "quantization_config" in said:
        config |= {"quantization_config": said["quantization_config"]}
    return Preset(
        name=name,
        summary=said["summary"],
        notes=(*said.get("notes", ()), *model.get("notes", ())),
        needs=said.get("needs", {}),
        layer=Section(children, top.origin),
        config=config,
        gpus=_overlays(name, about.children.get("gpus")),
    )


def _read(path: str, place: Origin) -> Section:
    text = (resources.files("tri_serve.spec") / "presets" / path).read_text(encoding="utf-8")
    top = DocumentReader(text, place=place).read()
    assert isinstance(top, Section)
    return top


def _model(name: str) -> dict[str, Any]:
    """What ``presets/models/NAME.yaml`` says."""
    read: dict[str, Any] = _data(_read(f"models/{name}.yaml", Origin("preset", name)))
    return read


def _overlays(name: str, node: Node | None) -> dict[str, Section]:
    """The overlays, each of whose values says which preset and GPU it is from."""
    if not isinstance(node, Section):
        return {}
    layers = {gpu: replaced_origin(layer, overlay_origin(name, gpu)) for gpu, layer in node.children.items()}
    return {gpu: layer for gpu, layer in layers.items() if isinstance(layer, Section)}


def overlay_origin(preset: str, gpu: str) -> Origin:
    """Where a value comes from that ``preset`` has for one kind of GPU."""
    return Origin("preset", f"{preset} for {gpu}")


def _data(node: Node) -> Any:
    """As JSON would give it: config.json's readers take lists, where specs take tuples."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Items):
        return [_data(item) for item in node.items]
    return {key: _data(child) for key, child in node.children.items()}
