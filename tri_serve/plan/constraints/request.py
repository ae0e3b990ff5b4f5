"""What the rules look at, and what a spec becomes when the change that a rule names is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from tri_serve.plan.facts import Gpu, ModelFacts, PlanDevice
from tri_serve.plan.result import MemoryPlan
from tri_serve.plan.weights import engine_dtype
from tri_serve.spec.engine import EngineSpec
from tri_serve.spec.models import Spec

Planner = Callable[[PlanDevice, EngineSpec, int], MemoryPlan]
"""The memory of such a device with such an engine, for sequences of so many tokens."""

Version = tuple[int, int]
"""Of an engine, as (0, 32): no rule here turns on a patch release."""


@dataclass(frozen=True)
class Request:
    """What is to run, and on what."""

    spec: Spec
    model: ModelFacts
    device: PlanDevice
    memory: MemoryPlan | None = None
    """What lies in each GPU's memory; none: not computed, and the rules on memory find nothing."""
    planner: Planner | None = None
    """Computes ``memory`` for other choices, so that a rule can name one that fits; none: only what follows from
    ``memory`` itself is named."""
    gpus: tuple[Gpu, ...] = ()
    """Other GPUs that could be named where this one is too small, smallest first."""

    @property
    def version(self) -> Version:
        return parse_version(self.spec.engine.version)

    @property
    def engine(self) -> str:
        """For people: ``vLLM 0.32.0``."""
        title = "vLLM" if self.spec.engine.kind == "vllm" else "SGLang"
        return f"{title} {self.spec.engine.version}"

    @property
    def tensor_parallel(self) -> int:
        return self.spec.engine.tensor_parallel_size

    @property
    def on_cpu(self) -> bool:
        return self.device.gpu.is_cpu

    @property
    def max_model_len(self) -> int:
        """Tokens of the longest sequence: the spec's, or what the engine takes from the checkpoint."""
        return self.spec.model.max_model_len or self.model.architecture.context

    @property
    def dtype(self) -> str:
        """Type of activations: what ``engine.dtype`` comes to."""
        capability = self.device.gpu.compute_capability
        return engine_dtype(self.spec.engine.dtype, self.model.architecture, capability)

    @property
    def rank(self) -> str:
        """What holds one part of a model that is spread, for people."""
        return "rank" if self.on_cpu else "GPU"

    def changed(self, change: Mapping[str, str]) -> Request:
        """The same with ``change`` made to the spec, its memory computed anew if there is a planner."""
        after = replace(self, spec=apply_change(self.spec, change))
        if self.planner is None or self.memory is None:
            return after
        return replace(after, memory=self.planner(self.device, after.spec.engine, after.max_model_len))

    def on(self, gpu: Gpu) -> Request:
        """The same on another kind of GPU of the catalogue, as many as are wanted."""
        device = replace(self.device, gpu=gpu, total=None, free=None, seen="catalogue")
        after = replace(self, device=device)
        if self.planner is None or self.memory is None:
            return after
        return replace(after, memory=self.planner(device, self.spec.engine, self.max_model_len))


def parse_version(text: str) -> Version:
    """``0.32.0`` as (0, 32)."""
    major, minor = re.findall(r"\d+", text)[:2]
    return int(major), int(minor)


def apply_change(spec: Spec, change: Mapping[str, str]) -> Spec:
    """``spec`` with each dotted key of ``change`` set; values are written as in tri-serve.yaml."""
    document = spec.model_dump()
    for dotted, text in change.items():
        *sections, key = dotted.split(".")
        place: dict[str, Any] = document
        for section in sections:
            place = place[section]
        value = yaml.safe_load(text)
        place[key] = tuple(value) if isinstance(value, list) else value
    return Spec.model_validate(document)
