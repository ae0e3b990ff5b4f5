"""Requests to check: Tri-21B in any format, on any device, with any part of the spec changed."""

from collections.abc import Callable
from typing import Any

import pytest

from tri_serve.checkpoint.quantization import QuantizationFacts
from tri_serve.plan.catalogue import load_catalogue
from tri_serve.plan.constraints import Request, all_rules
from tri_serve.plan.facts import Gpu, ModelFacts, PlanDevice
from tri_serve.plan.memory import plan_memory
from tri_serve.plan.result import Finding
from tri_serve.spec.models import Spec

FORMATS = {
    "none": QuantizationFacts(),
    "awq": QuantizationFacts("awq", 4, 128, symmetric=False, layout="gemm"),
    "gptq": QuantizationFacts("gptq", 4, 128, layout="gptq"),
    "compressed-tensors": QuantizationFacts("compressed-tensors", 4, 128, layout="pack-quantized"),
    "bitsandbytes": QuantizationFacts("bitsandbytes", 4, layout="nf4"),
}
OTHERS = {
    "t4": Gpu("t4", "NVIDIA T4 16 GB", 15 * 2**30, 320e9, 65e12, (7, 5)),
    "v100": Gpu("v100", "NVIDIA V100 32 GB", 32 * 2**30, 900e9, 125e12, (7, 0)),
    "b200": Gpu("b200", "NVIDIA B200 180 GB", 178 * 2**30, 8e12, 2.2e15, (10, 0)),
}


@pytest.fixture(scope="session")
def devices() -> dict[str, Gpu]:
    """The catalogue's, and some of other compute capabilities."""
    return dict(load_catalogue()) | OTHERS


@pytest.fixture
def ask(model: Callable[..., ModelFacts], devices: dict[str, Gpu]) -> Callable[..., Request]:
    """A request: ``engine``, ``model`` and ``fleet`` are keys of the spec; ``config`` is of config.json."""
    known: dict[Any, ModelFacts] = {}

    def make(
        gpu: str = "l4",
        quantization: str | QuantizationFacts = "awq",
        *,
        engine: dict[str, Any] | None = None,
        spec_model: dict[str, Any] | None = None,
        fleet: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        device: dict[str, Any] | None = None,
        planned: bool = False,
    ) -> Request:
        facts = FORMATS[quantization] if isinstance(quantization, str) else quantization
        key = (facts, tuple((config or {}).items()))
        if key not in known:
            known[key] = model(facts, **config or {})
        spec = Spec.model_validate(
            {
                "model": {"source": "/ckpt", "served_name": "tri"} | (spec_model or {}),
                "engine": engine or {},
                "fleet": fleet or {},
            }
        )
        here = PlanDevice(devices[gpu], **device or {})
        if not planned:
            return Request(spec, known[key], here)

        def planner(device: PlanDevice, engine: Any, length: int) -> Any:
            return plan_memory(known[key], device, engine, length)

        length = spec.model.max_model_len or known[key].architecture.context
        memory = planner(here, spec.engine, length)
        return Request(spec, known[key], here, memory, planner, tuple(devices.values()))

    return make


@pytest.fixture
def found() -> Callable[[Request, str], tuple[Finding, ...]]:
    """What one rule finds, by its name."""
    rules = {rule.name: rule for rule in all_rules()}

    def find(request: Request, rule: str) -> tuple[Finding, ...]:
        return rules[rule].find(request)

    return find


@pytest.fixture
def only(found: Callable[[Request, str], tuple[Finding, ...]]) -> Callable[[Request, str], Finding]:
    """The one thing that a rule finds, after the change it names was tried: with it, it finds no refusal."""

    def find(request: Request, rule: str) -> Finding:
        (finding,) = found(request, rule)
        if finding.change:
            assert found(request.changed(finding.change), rule) == ()
        return finding

    return find
