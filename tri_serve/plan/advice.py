"""What to change to get more out of a plan that works: each change is planned in full before it is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tri_serve.errors import UsageError
from tri_serve.plan.constraints.request import apply_change
from tri_serve.plan.facts import Gpu, PlanDevice
from tri_serve.plan.result import Change, MemoryPlan, Plan
from tri_serve.plan.words import number, users_words
from tri_serve.spec.models import Spec

Planner = Callable[[Spec, PlanDevice], Plan]
Elsewhere = Callable[[Gpu], Plan]
"""The plan that ``--gpu`` with that GPU's name gives: as the preset has it there, on as many as it then takes."""

_LEAST_LENGTH = 2048
"""Tokens below which a context is too short for a conversation; nobody is advised to have less."""
_FEW_USERS = 2
"""Up to which shorter conversations are worth naming: they make more users of the same memory."""
_WORTH = 1.25
"""As many times as fast, or as many users, as makes a change worth naming."""
_GPUS = 2


def changes(
    plan: Plan,
    spec: Spec,
    device: PlanDevice,
    planner: Planner,
    gpus: tuple[Gpu, ...],
    elsewhere: Elsewhere,
) -> tuple[Change, ...]:
    """Changes that would bring more users or more speed, at most a handful; ``gpus`` are looked at in order.

    None for a plan that does not work, or may not: its refusals name what does.
    """
    if plan.refused or plan.memory is None or not plan.memory.fits:
        return ()
    found = list(_limits(plan.memory, spec, device, planner))
    for keys in _candidates(plan.memory, spec, device):
        try:
            after = planner(apply_change(spec, keys), device)
        except UsageError:
            continue  # it does not allow the lengths that are asked about
        if not after.refused and after.memory is not None and (effect := _effect(plan, after)):
            found.append(Change(keys=keys, effect=effect))
    named = 0
    for gpu in gpus:
        if named == _GPUS or gpu.is_cpu or device.gpu.is_cpu or gpu.name == device.gpu.name:
            continue
        try:
            after = elsewhere(gpu)
        except UsageError:
            continue  # as above: the preset allows less there
        if not after.refused and _is_better(plan, after) and (effect := _effect(plan, after)):
            found.append(Change(keys={}, gpu=gpu.name, effect=effect))
            named += 1
    return tuple(found)


def _limits(memory: MemoryPlan, spec: Spec, device: PlanDevice, planner: Planner) -> Iterator[Change]:
    """The limits of a step that are recommended, where the engine would run with others."""
    now = {"max_num_seqs": memory.max_num_seqs, "max_num_batched_tokens": memory.max_num_batched_tokens}
    keys = {f"engine.{name}": str(value) for name, value in memory.recommended.items() if value != now[name]}
    if not keys:
        return
    after = planner(apply_change(spec, keys), device)
    if after.refused or after.memory is None or after.memory.users < memory.users:
        return  # higher limits take room from conversations of full length
    effects = [f"KV cache of {after.memory.kv_tokens:,} tokens in place of {memory.kv_tokens:,}"]
    if after.memory.kv_tokens == memory.kv_tokens:
        effects = []
    if after.memory.max_num_seqs > memory.max_num_seqs:
        effects.append(f"up to {after.memory.max_num_seqs:,} requests at once")
    if after.memory.max_num_batched_tokens < memory.max_num_batched_tokens:
        effects.append("shorter waits of running answers while a prompt is read")
    elif after.memory.max_num_batched_tokens > memory.max_num_batched_tokens:
        effects.append("prompts read in fewer steps")
    if effects:
        yield Change(keys=keys, effect="; ".join(effects))


def _candidates(memory: MemoryPlan, spec: Spec, device: PlanDevice) -> list[dict[str, str]]:
    if device.gpu.is_cpu:
        return [{"engine.cpu_kv_cache_gib": f"{2 * spec.engine.cpu_kv_cache_gib:g}"}]
    candidates = []
    if spec.engine.kv_cache_dtype == "auto":
        candidates.append({"engine.kv_cache_dtype": "fp8"})
    if memory.users <= _FEW_USERS and memory.max_model_len // 2 >= _LEAST_LENGTH:
        candidates.append({"model.max_model_len": str(memory.max_model_len // 2)})
    return candidates


def _is_better(before: Plan, after: Plan) -> bool:
    return _more_users(before, after) >= _WORTH and _faster(before, after) >= _WORTH


def _more_users(before: Plan, after: Plan) -> float:
    assert before.memory is not None
    assert after.memory is not None
    return after.memory.users / max(1, before.memory.users)


def _faster(before: Plan, after: Plan) -> float:
    """How many times as fast one user alone is answered."""
    if before.speed is None or after.speed is None:
        return 1.0
    return after.speed.decode[0].rate.likely / before.speed.decode[0].rate.likely


def _effect(before: Plan, after: Plan) -> str:
    """What is different, in words; empty if nothing is that matters."""
    assert before.memory is not None
    assert after.memory is not None
    if _more_users(before, after) < _WORTH and _faster(before, after) < _WORTH:
        return ""
    words = users_words(after.memory)
    if after.memory.max_model_len == before.memory.max_model_len:
        words = words.partition(" at once ")[0]
    if after.device.count != before.device.count:
        words += " on one GPU" if after.device.count == 1 else f" on {after.device.count} GPUs"
    faster = _faster(before, after)
    if faster >= _WORTH:
        words += f", one alone about {number(faster)} times as fast"
    warnings = {finding.rule for finding in before.findings}
    new = [
        finding.message
        for finding in after.findings
        if finding.severity == "warning" and finding.rule not in warnings
    ]
    # What follows a colon in a finding explains it.
    return "; but ".join([words, *(message.partition(": ")[0] for message in new[:1])])
