"""Plans of the same model as other presets store it, for who serves it unquantised or in bitsandbytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from tri_serve.cli.plan_device import choose
from tri_serve.errors import TriServeError
from tri_serve.places import cache_dir
from tri_serve.plan.facts import ModelFacts, PlanDevice
from tri_serve.plan.model import model_facts
from tri_serve.plan.result import Plan
from tri_serve.spec.models import Spec
from tri_serve.spec.preset import preset_names

if TYPE_CHECKING:
    from tri_serve.cli.options import SpecSelection

_FASTER = ("awq", "gptq", "ct")
"""Endings of presets whose 4-bit weights a kernel multiplies as they are."""
_RANKS = "engine.tensor_parallel_size"


def stored_otherwise(
    selection: SpecSelection,
    gpu: str,
    plan: Plan,
    model: ModelFacts,
    planned: Callable[[Spec, ModelFacts, PlanDevice], Plan],
) -> Iterator[tuple[str, dict[str, str], Plan]]:
    """Presets of ``plan``'s model in 4 bits, each with keys to set beside it, and planned on device ``gpu``.

    None if its weights are such already, or if nobody chose a preset: then its files are the user's own.
    """
    family = (selection.preset or "").rpartition("-")[0]
    if model.quantization.method not in ("none", "bitsandbytes") or not family or selection.files:
        return
    # The checkpoint that was named is not the other preset's.
    sets = tuple(one for one in selection.sets if not one.startswith(("model.source=", f"{_RANKS}=")))
    given = [one for one in selection.sets if one.startswith(f"{_RANKS}=")]
    for name in (f"{family}-{ending}" for ending in _FASTER):
        if name not in preset_names():
            continue
        keys = {_RANKS: "1"} if given and plan.device.count > 1 else {}
        more = tuple(f"{key}={value}" for key, value in keys.items()) or tuple(given)
        try:
            chosen = choose(replace(selection, preset=name, sets=(*sets, *more)), gpu)
            spec = chosen.loaded.spec
            other = model_facts(spec, chosen.loaded.base, cache_dir())
            if other.architecture.parameters != model.architecture.parameters:
                continue
            yield name, keys, planned(spec, other, chosen.device)
        except TriServeError:
            continue  # what was set does not go with that preset
