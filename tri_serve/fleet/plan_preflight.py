"""What the plan refuses, refused before an engine is started to find it out in a minute."""

from __future__ import annotations

from pathlib import Path

from tri_serve.errors import LaunchError
from tri_serve.plan.constraints import Request, check
from tri_serve.plan.facts import PlanDevice
from tri_serve.plan.memory import plan_memory
from tri_serve.plan.model import model_facts
from tri_serve.plan.result import Finding, MemoryPlan
from tri_serve.spec.engine import EngineSpec
from tri_serve.spec.models import Spec

_SAID_ELSEWHERE = frozenset({"free-memory", "driver"})
"""gpu_preflight says them of each GPU, with who holds its memory."""


def check_plan(spec: Spec, device: PlanDevice, cache: Path) -> None:
    """Raises LaunchError if a rule refuses to serve the spec's checkpoint, which is here, on ``device``.

    Memory is planned as if nobody else were on the device. Raises CheckpointError as the checkpoint is read.
    """
    model = model_facts(spec, None, cache)
    length = spec.model.max_model_len or model.architecture.context
    idle = PlanDevice(device.gpu, device.count, total=device.total, seen=device.seen)

    def memory_of(device: PlanDevice, engine: EngineSpec, length: int) -> MemoryPlan:
        return plan_memory(model, device, engine, length)

    memory = memory_of(idle, spec.engine, length)
    refused = [
        finding
        for finding in check(Request(spec, model, idle, memory=memory, planner=memory_of))
        if finding.severity == "refusal" and finding.rule not in _SAID_ELSEWHERE
    ]
    if refused:
        raise LaunchError(
            "\n".join(f"{finding.message} (rule {finding.rule})" for finding in refused),
            hint="; ".join(hint for finding in refused if (hint := _hint(finding))) or None,
        )


def _hint(finding: Finding) -> str:
    sets = " ".join(f"--set {key}={value}" for key, value in finding.change.items())
    return " or ".join(words for words in (f"{sets} works" if sets else "", finding.advice) if words)
