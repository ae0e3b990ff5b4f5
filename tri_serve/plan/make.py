"""From a spec, a model and a device to the whole plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tri_serve.errors import TooLongError
from tri_serve.plan.calibration import shares_for
from tri_serve.plan.calibration_table import CalibrationTable
from tri_serve.plan.constraints import Request, kernel_expectation, remedied
from tri_serve.plan.demand import check_lengths, plan_demand, plan_slo
from tri_serve.plan.facts import Gpu, ModelFacts, PlanDevice
from tri_serve.plan.memory import plan_memory
from tri_serve.plan.result import (
    DemandPlan,
    DeviceSummary,
    MemoryPlan,
    ModelSummary,
    Plan,
    SloPlan,
    SpeedPlan,
)
from tri_serve.plan.server import Load
from tri_serve.plan.shares import Shares
from tri_serve.plan.speed import BATCHES, plan_speed, sequences_at_once
from tri_serve.spec.engine import EngineSpec
from tri_serve.spec.models import Spec
from tri_serve.spec.slo import Slo

_CONTEXT = 1024
"""Tokens behind each sequence where nothing else is asked: a common length of chats."""


@dataclass(frozen=True)
class Question:
    """What a plan is asked beyond what the spec says."""

    load: Load | None = None
    """Lengths of the requests, and their rate and SLO where these are asked about."""
    price: float | None = None
    """Of one GPU for an hour, in any currency."""
    contexts: tuple[int, ...] | None = None
    """Tokens behind each sequence to predict speed for; none: 1,024, and the longest that is allowed."""
    prompts: tuple[int, ...] | None = None
    """Tokens of the prompts to predict the first token for, where ``contexts`` are the lengths of ``load``: the
    longest that is allowed is then added to both; none: those of ``contexts``."""


def make_plan(
    spec: Spec,
    *,
    model: ModelFacts,
    device: PlanDevice,
    question: Question = Question(),
    tables: Iterable[CalibrationTable] = (),
    larger: tuple[Gpu, ...] = (),
) -> Plan:
    """What comes of serving ``model`` as ``spec`` says on ``device``.

    ``tables`` hold what was measured; without a fitting one speed rests on a prior. ``larger``: GPUs to name where
    this one is too small, smallest first. The plan has no ``command`` and no ``changes`` yet.
    Raises UsageError for a load that is none, and for a length that max_model_len does not allow.
    """
    length = spec.model.max_model_len or model.architecture.context

    def memory_of(device: PlanDevice, engine: EngineSpec, length: int) -> MemoryPlan:
        return plan_memory(model, device, engine, length)

    memory = memory_of(device, spec.engine, length)
    request = Request(spec, model, device, memory=memory, planner=memory_of, gpus=larger)
    findings = remedied(request)
    speed: SpeedPlan | None = None
    slo: SloPlan | None = None
    demand: DemandPlan | None = None
    # 0 stands for unknown: the catalogue does not have this board. What does not fit by these figures and is not
    # refused runs with others, which a flag gives it.
    known = device.gpu.bandwidth > 0 and device.gpu.flops > 0 and memory.fits
    if known and not any(finding.severity == "refusal" for finding in findings):
        attained = shares_for(device.gpu, spec.engine, model.quantization.method, tables)
        if question.load is not None and question.prompts is not None:
            check_lengths(question.load, memory)
        speed = _speed(model, device, spec.engine, memory, attained, question)
        load = question.load
        if load is not None and load.slo != Slo():
            slo = plan_slo(model, device, spec.engine, memory, attained, load)
        if load is not None and load.request_rate is not None:
            demand = plan_demand(model, device, spec.engine, memory, attained, load, price=question.price)
    return Plan(
        model=_model_summary(model),
        device=_device_summary(device, spec.engine),
        engine=f"{spec.engine.kind} {spec.engine.version}",
        kernel=kernel_expectation(request),
        findings=findings,
        replicas=spec.fleet.most_replicas,
        memory=memory,
        speed=speed,
        slo=slo,
        demand=demand,
    )


def _speed(
    model: ModelFacts,
    device: PlanDevice,
    engine: EngineSpec,
    memory: MemoryPlan,
    shares: Shares,
    question: Question,
) -> SpeedPlan:
    longest = max(question.contexts or (0,))
    if longest > memory.max_model_len:
        made_for = model.architecture.context
        raise TooLongError(
            f"--context {longest}: max_model_len allows {memory.max_model_len} tokens",
            hint=f"--context {memory.max_model_len} at most: the model was made for {made_for:,} tokens"
            if longest > made_for
            else f"--set model.max_model_len={longest}, or --context {memory.max_model_len} at most",
        )
    contexts = question.contexts or tuple(
        dict.fromkeys((min(_CONTEXT, memory.max_model_len), memory.max_model_len))
    )
    prompts = contexts
    if question.prompts is not None:
        # The longest is there as always: what is said of users of full length is.
        prompts = tuple(dict.fromkeys((*question.prompts, memory.max_model_len)))
        contexts = tuple(dict.fromkeys((*contexts, memory.max_model_len)))
    # The usual numbers, and for each length as many as there can be.
    most = {sequences_at_once(memory, context) for context in contexts}
    return plan_speed(
        model,
        device,
        engine,
        memory,
        shares,
        batches=sorted({*BATCHES, *most} - {0}),
        contexts=contexts,
        prompts=prompts,
        tpot_slo=question.load.slo.tpot if question.load else None,
    )


def _model_summary(model: ModelFacts) -> ModelSummary:
    return ModelSummary(
        origin=model.origin,
        architecture=model.architecture.architectures[0],
        parameters=model.architecture.parameters,
        layers=model.architecture.num_hidden_layers,
        quantization=model.quantization.label,
        weight_bytes=model.weight_bytes,
        context=model.architecture.context,
        remarks=model.remarks,
    )


def _device_summary(device: PlanDevice, engine: EngineSpec) -> DeviceSummary:
    gpu = device.gpu
    capability = None if gpu.compute_capability is None else ".".join(map(str, gpu.compute_capability))
    return DeviceSummary(
        name=gpu.name,
        title=gpu.title,
        count=1 if gpu.is_cpu else engine.tensor_parallel_size,
        total=device.total_bytes,
        free=device.free_bytes,
        bandwidth=gpu.bandwidth,
        flops=gpu.flops,
        compute_capability=capability,
        seen=device.seen,
        sources=dict(gpu.sources),
    )
