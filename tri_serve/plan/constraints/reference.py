"""The rules as a page of the documentation, with what they come to for Tri-21B."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tri_serve.checkpoint.architecture import architecture_from
from tri_serve.checkpoint.quantization import QuantizationFacts
from tri_serve.plan.catalogue import load_catalogue
from tri_serve.plan.constraints.attention import attention_backend
from tri_serve.plan.constraints.kernels import kernel_expectation
from tri_serve.plan.constraints.request import Request
from tri_serve.plan.constraints.rules import all_rules
from tri_serve.plan.constraints.shapes import split_groups
from tri_serve.plan.constraints.tensor_parallel import GROUP_SIZES
from tri_serve.plan.facts import Gpu, ModelFacts, PlanDevice
from tri_serve.spec.engine import EngineSpec
from tri_serve.spec.models import Spec
from tri_serve.spec.preset import load_preset

PRESET = "tri-21b-ct"
RANKS = (1, 2, 4, 8)


def rules_page(first_line: str) -> str:
    """The page in Markdown; ``first_line`` says that it is generated."""
    return "\n".join([first_line, *_rules(), *_group_sizes(), *_devices()]) + "\n"


def _rules() -> Iterator[str]:
    yield "# What a plan checks"
    yield ""
    yield "A **refusal**: the engine would not start, or would answer wrongly. It names the numbers, and the"
    yield "nearest values of the spec with which it works, if there are any. A **warning** or a **note** stops"
    yield "nothing. Rules are read from vLLM's source; those that are marked hold for SGLang as well."
    yield ""
    yield "| rule | what must hold | else | SGLang | where it is from |"
    yield "|---|---|---|---|---|"
    for rule in all_rules():
        also = "yes" if rule.any_engine else ""
        cells = (f"`{rule.name}`", rule.title, " or ".join(rule.severities), also, rule.source)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _group_sizes() -> Iterator[str]:
    wide = _tri_21b(None).architecture.intermediate_size
    yield ""
    yield "## Tri-21B: group size and tensor parallelism"
    yield ""
    yield f"Each GPU's inputs of `down_proj`, {wide:,} in all, must be a whole number of groups."
    yield ""
    yield "| groups of | " + " | ".join(f"{ranks} GPU{'s' if ranks > 1 else ''}" for ranks in RANKS) + " |"
    yield "|---|" + "---|" * len(RANKS)
    for group in GROUP_SIZES:
        cells = ["no" if split_groups(_tri_21b(group), ranks) else "yes" for ranks in RANKS]
        yield f"| {group} | {' | '.join(cells)} |"


def _devices() -> Iterator[str]:
    head = _tri_21b(None).architecture.head_dim
    yield ""
    yield "## Tri-21B: kernels and attention"
    yield ""
    yield f"What vLLM {EngineSpec().version} is expected to choose for 4-bit weights in groups of 128 and for"
    yield f"head_dim {head}."
    yield ""
    yield "| device | compute capability | kernel | attention | with a KV cache in fp8 |"
    yield "|---|---|---|---|---|"
    for gpu in load_catalogue().values():
        capability = ".".join(map(str, gpu.compute_capability or ()))
        plain, fp8 = (_request(gpu, dtype) for dtype in ("auto", "fp8"))
        cells = (gpu.title, capability, kernel_expectation(plain), _attention(plain), _attention(fp8))
        yield f"| {' | '.join(cells)} |"


def _attention(request: Request) -> str:
    choice = attention_backend(request)
    return "refused" if choice.backend is None else f"`{choice.backend}`"


def _request(gpu: Gpu, kv_cache_dtype: str) -> Request:
    spec = Spec.model_validate(
        {"model": {"source": PRESET, "served_name": PRESET}, "engine": {"kv_cache_dtype": kv_cache_dtype}}
    )
    return Request(spec, _tri_21b(128), PlanDevice(gpu))


def _tri_21b(group_size: int | None) -> ModelFacts:
    """Its shapes; no rule on this page looks at tensors."""
    config = load_preset(PRESET).config
    assert config is not None, "a preset of Tri-21B knows its architecture"
    architecture = architecture_from(config, Path(PRESET))
    quantization = QuantizationFacts("compressed-tensors", 4, group_size)
    return ModelFacts(architecture, quantization, {}, origin=f"from preset {PRESET}", from_checkpoint=False)
