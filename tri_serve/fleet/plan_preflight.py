"""What the plan refuses, refused before an engine is started to find it out in a minute."""

from __future__ import annotations

from pathlib import Path

from tri_serve.checkpoint.architecture import Architecture
from tri_serve.checkpoint.quantization import QuantizationFacts, check_quantization
from tri_serve.errors import LaunchError, SpecError
from tri_serve.plan.constraints import Request, remedied
from tri_serve.plan.constraints.memory import FITS, is_certainly_too_large
from tri_serve.plan.constraints.voided import LONGER, context_voided_by
from tri_serve.plan.facts import ModelFacts, PlanDevice
from tri_serve.plan.memory import plan_memory
from tri_serve.plan.result import Finding, MemoryPlan
from tri_serve.spec.engine import EngineSpec
from tri_serve.spec.models import Spec

_SAID_ELSEWHERE = frozenset(
    {
        "free-memory",
        "driver",
        "gpus-tensor-parallel",
        "replicas-and-gpus",
        "context-of-the-model",
    }
)
"""Other checks say them: gpu_preflight of each GPU, with who holds its memory; check_gpus; check_model."""


def check_model(spec: Spec, architecture: Architecture, quantization: QuantizationFacts, where: Path) -> None:
    """Raises CheckpointError or SpecError if the spec asks for what the checkpoint in ``where`` is not: another
    quantisation, or more context than it was made for."""
    check_quantization(spec.model.quantization, quantization, where)
    limit, asked = architecture.context, spec.model.max_model_len
    if asked is not None and asked > limit and context_voided_by(spec.engine) is None:
        raise SpecError(
            f"model.max_model_len is {asked:,}, and config.json allows {limit:,} positions",
            hint=f"--set model.max_model_len={limit}, or leave it out: the model's own limit is taken; "
            f"--set engine.env.{LONGER}=1 has the engine go beyond it, where answers are not to be relied on",
        )


def check_plan(spec: Spec, device: PlanDevice, model: ModelFacts) -> tuple[str, ...]:
    """Raises LaunchError if a rule refuses to serve ``model`` as ``spec`` says on ``device``; returns warnings.

    Memory is planned as if nobody else were on the device. What is missing by priors alone (buffers, CUDA graphs)
    is a warning: the engine measures them, and may do with less.
    """
    length = spec.model.max_model_len or model.architecture.context
    idle = PlanDevice(device.gpu, device.count, total=device.total, seen=device.seen)

    def memory_of(device: PlanDevice, engine: EngineSpec, length: int) -> MemoryPlan:
        return plan_memory(model, device, engine, length)

    memory = memory_of(idle, spec.engine, length) if idle.memory_known else None
    request = Request(spec, model, idle, memory=memory, planner=memory_of)
    refused: list[Finding] = []
    warnings: list[str] = []
    for finding in remedied(request):
        if finding.rule in _SAID_ELSEWHERE:
            continue
        by_priors = finding.rule == FITS.name and not is_certainly_too_large(request)
        if finding.severity == "refusal" and not by_priors:
            refused.append(finding)
        elif finding.rule == FITS.name:
            warnings.append(_warning(finding, "by estimate, " if finding.severity == "refusal" else ""))
    if refused:
        raise LaunchError(
            "\n".join(f"{finding.message} (rule {finding.rule})" for finding in refused),
            hint="; ".join(hint for finding in refused if (hint := _hint(finding))) or None,
        )
    return tuple(warnings)


def _warning(finding: Finding, preface: str) -> str:
    hint = _hint(finding)
    return f"{preface}{finding.message} (rule {finding.rule})" + (f"; {hint}" if hint else "")


def _hint(finding: Finding) -> str:
    sets = " ".join(f"--set {key}={value}" for key, value in finding.change.items())
    return " or ".join(words for words in (f"{sets} works" if sets else "", finding.advice) if words)
