"""What to change to get more out of a plan that works: each change is planned in full before it is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from tri_serve.errors import UsageError
from tri_serve.plan.constraints.request import apply_change
from tri_serve.plan.facts import Gpu, PlanDevice
from tri_serve.plan.result import Change, MemoryPlan, Plan
from tri_serve.plan.words import counted, number, users_words
from tri_serve.spec.models import Spec

Planner = Callable[[Spec, PlanDevice], Plan]
Elsewhere = Callable[[Gpu], Plan]
"""The plan that ``--gpu`` with that GPU's name gives: as the preset has it there, on as many as it then takes."""
Stored = tuple[str, dict[str, str], Plan]
"""A preset of the same model in fewer bits, keys to set beside it, and the plan that both give on this GPU."""

_LEAST_LENGTH = 2048
"""Tokens below which a context is too short for a conversation; nobody is advised to have less."""
_FEW_USERS = 2
"""Up to which shorter conversations are worth naming: they make more users of the same memory."""
_WORTH = 1.25
"""As many times as fast, or as many users, as makes a change worth naming."""
_GPUS = 2
_SAME_MEMORY = 0.1
"""Boards of one size differ by less: 22.0 to 24.0 GiB are sold as 24 GB."""
_MOST_RANKS = 8
"""GPUs that one machine commonly has."""
_SOME = 8
"""Users at once for whom ways of storing a model are compared: one alone waits for memory with all of them."""


def changes(
    plan: Plan,
    spec: Spec,
    device: PlanDevice,
    planner: Planner,
    gpus: tuple[Gpu, ...],
    elsewhere: Elsewhere,
    stored: Iterable[Stored] = (),
) -> tuple[Change, ...]:
    """Changes that would bring more users or more speed, at most a handful; ``gpus`` are looked at in order.

    Where an SLO or a load is asked about that this cannot keep, what keeps it instead, or that nothing does.
    None for a plan that does not work, or may not: its refusals name what does.
    """
    if plan.refused or plan.memory is None or not plan.memory.fits:
        return ()
    others = [gpu for gpu in gpus if not gpu.is_cpu and not device.gpu.is_cpu and gpu.name != device.gpu.name]
    if not keeps(plan):
        return _that_keep(plan, spec, device, planner, others, elsewhere)
    found = list(_limits(plan.memory, spec, device, planner))
    candidates = _candidates(plan.memory, spec, device)
    if spec.engine.tensor_parallel_size == 1:
        candidates += _more_ranks(spec, device, most=1)
    for keys, after in _planned(candidates, spec, device, planner):
        if effect := _effect(plan, after):
            found.append(Change(keys=keys, effect=effect))
    for preset, keys, after in stored:
        if effect := _effect_of_storing(plan, after):
            found.append(Change(keys=keys, preset=preset, effect=effect))
            break
    here = device.gpu
    larger = [gpu for gpu in others if gpu.memory > here.memory or gpu.bandwidth > here.bandwidth]
    found += _gpus(plan, device, larger, elsewhere)
    return tuple(found)


def keeps(plan: Plan) -> bool:
    """Whether the SLO and the load that are asked about are kept, if any are."""
    slo = plan.slo is None or plan.slo.users.likely >= 1
    return slo and (plan.demand is None or plan.demand.replicas is not None)


def _that_keep(
    plan: Plan,
    spec: Spec,
    device: PlanDevice,
    planner: Planner,
    gpus: Iterable[Gpu],
    elsewhere: Elsewhere,
) -> tuple[Change, ...]:
    """What keeps the SLO or the load: settings, then the smallest GPUs; or one that says that nothing does."""
    assert plan.memory is not None
    candidates = [
        *_candidates(plan.memory, spec, device),
        *_more_ranks(spec, device, most=_MOST_RANKS),
    ]
    found = [
        Change(keys=keys, effect=_kept_words(after))
        for keys, after in _planned(candidates, spec, device, planner)
        if keeps(after)
    ][:_GPUS]
    for gpu, after in _planned_elsewhere(gpus, elsewhere):
        if keeps(after):
            found.append(Change(keys={}, gpu=gpu.name, effect=_kept_words(after)))
        if len(found) >= 2 * _GPUS - 1:
            break
    if found:
        return tuple(found)
    asked = "the SLO" if plan.slo is not None else "the load"
    tried = "" if device.gpu.is_cpu else ", and no GPU of the catalogue with the settings that it has there"
    return (Change(keys={}, effect=f"no setting that a plan knows keeps {asked} here{tried}"),)


def _kept_words(after: Plan) -> str:
    words = "keeps what is asked"
    if after.slo is not None:
        words = f"keeps the SLO for {counted(round(after.slo.users.likely), 'user')} at once"
    if after.demand is not None and after.demand.replicas is not None:
        words += f", with {counted(round(after.demand.replicas.likely), 'engine')} for the load"
    return words + (f", on {after.device.count} GPUs each" if after.device.count > 1 else "")


def _planned(
    candidates: Iterable[dict[str, str]], spec: Spec, device: PlanDevice, planner: Planner
) -> Iterator[tuple[dict[str, str], Plan]]:
    """Those that work, each with its plan."""
    for keys in candidates:
        changed = apply_change(spec, keys)
        there = device
        if device.seen == "catalogue":
            there = replace(device, count=max(device.count, changed.engine.tensor_parallel_size))
        try:
            after = planner(changed, there)
        except UsageError:
            continue  # it does not allow the lengths that are asked about
        if not after.refused and after.memory is not None:
            yield keys, after


def _planned_elsewhere(gpus: Iterable[Gpu], elsewhere: Elsewhere) -> Iterator[tuple[Gpu, Plan]]:
    for gpu in gpus:
        try:
            after = elsewhere(gpu)
        except UsageError:
            continue  # as above: the preset allows less there
        if not after.refused and after.memory is not None:
            yield gpu, after


def _more_ranks(spec: Spec, device: PlanDevice, *, most: int) -> Iterator[dict[str, str]]:
    """Twice as many GPUs for one engine, up to ``most`` times doubled, of those that there are."""
    ranks = 2 * spec.engine.tensor_parallel_size
    end = _MOST_RANKS if device.seen == "catalogue" else device.count
    while not device.gpu.is_cpu and ranks <= end and most > 0:
        yield {"engine.tensor_parallel_size": str(ranks)}
        ranks, most = 2 * ranks, most - 1


def _gpus(plan: Plan, device: PlanDevice, gpus: Sequence[Gpu], elsewhere: Elsewhere) -> Iterator[Change]:
    """The fastest with as much memory, then those that hold more users too."""
    named = 0
    alike = [gpu for gpu in gpus if abs(gpu.memory / device.gpu.memory - 1) < _SAME_MEMORY]
    for gpu, after in _planned_elsewhere(sorted(alike, key=lambda gpu: -gpu.bandwidth), elsewhere):
        if _faster(plan, after) >= _WORTH and _more_users(plan, after) >= 1:
            yield Change(keys={}, gpu=gpu.name, effect=_effect(plan, after))
            named += 1
            break
    for gpu, after in _planned_elsewhere((gpu for gpu in gpus if gpu not in alike), elsewhere):
        if _is_better(plan, after) and (effect := _effect(plan, after)):
            yield Change(keys={}, gpu=gpu.name, effect=effect)
            named += 1
        if named == _GPUS:
            break


def _effect_of_storing(before: Plan, after: Plan) -> str:
    """What the same model in another preset's format brings: fewer GPUs, or tokens sooner where several ask."""
    if after.refused or after.memory is None or before.speed is None or after.speed is None:
        return ""
    words = users_words(after.memory)
    fewer = after.device.count < before.device.count
    if fewer:
        words += f" on {'one GPU' if after.device.count == 1 else f'{after.device.count} GPUs'}"
        words += f" in place of {before.device.count}"
    paces = [
        {(point.batch, point.context): point.rate.likely for point in plan.speed.decode if point.fits}
        for plan in (before, after)
        if plan.speed is not None
    ]
    both = [at for at in paces[0] if at in paces[1] and at[0] <= _SOME]
    at = max(both, default=None)
    faster = paces[1][at] / paces[0][at] if at else 1.0
    if not fewer and faster < _WORTH:
        return ""
    if at and faster >= _WORTH:
        words += f", {counted(at[0], 'user')} about {number(faster)} times as fast"
    return words


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
