"""From what a command line asks to plans, for all commands of ``tri-serve plan``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tri_serve.checkpoint.resolve import TINY
from tri_serve.cli.options import SpecSelection
from tri_serve.cli.plan_device import AUTO, Chosen, choose
from tri_serve.cli.plan_stored import stored_otherwise
from tri_serve.errors import LaunchError, MissingExtraError, UsageError
from tri_serve.places import cache_dir
from tri_serve.plan.advice import changes
from tri_serve.plan.calibration_table import CalibrationTable, load_tables
from tri_serve.plan.catalogue import load_catalogue
from tri_serve.plan.facts import Gpu, ModelFacts, PlanDevice
from tri_serve.plan.make import Question, make_plan
from tri_serve.plan.model import model_facts
from tri_serve.plan.result import Plan
from tri_serve.plan.server import Load
from tri_serve.spec.fields import parse_count
from tri_serve.spec.models import Spec
from tri_serve.spec.secrets import mask_arguments, mask_assignment
from tri_serve.spec.slo import Slo, parse_slo

REFUSED = LaunchError.exit_code
"""Exit code of a plan of what cannot work: that of an engine that would not start."""
STAND_IN_SOURCE = "/path/to/checkpoint"
"""What commands show where the checkpoint is still to be named."""

_INPUT_LEN, _OUTPUT_LEN = 1024, 256
"""Tokens of a request where nothing else is said: a common length of chats."""

_LONGEST_COUNT = 12
"""Digits; no model has a context of a million million tokens."""


@dataclass(frozen=True)
class Asked:
    """What the options say."""

    question: Question
    calibrations: tuple[Path, ...] = ()
    """Tables of measurements beside those that are found by themselves."""


@dataclass(frozen=True)
class Answer:
    """A plan and what belongs beside it."""

    plan: Plan
    title: str
    notes: tuple[str, ...]
    """What the user should know of this plan."""
    warnings: tuple[str, ...]
    """What is wrong beside the plan, and was left out of it."""
    notices: tuple[str, ...]
    """What the user of the preset should know, whatever is planned."""
    start: str | None
    """The command of ours that starts it; none if it does not work."""


def asked_of(
    *,
    context: str | None,
    request_rate: float | None,
    input_len: str | None,
    output_len: str | None,
    slo: str | None,
    price: float | None,
    calibration: tuple[Path, ...],
) -> Asked:
    """The options, checked. Raises UsageError.

    Lengths that are given are those of the table of speed too, unless ``context`` says others: with the prompt
    behind each user, as an answer begins, and with all of it, as it ends.
    """
    promised = parse_slo(slo) if slo else Slo()
    if price is not None and request_rate is None:
        raise UsageError("--price needs --request-rate: cost depends on how busy the GPUs are")
    prompt = _INPUT_LEN if input_len is None else tokens("--input-len", input_len)
    answered = _OUTPUT_LEN if output_len is None else tokens("--output-len", output_len)
    load = Load(request_rate, prompt, answered, slo=promised)
    contexts = tuple(tokens("--context", word) for word in context.split(",")) if context else None
    prompts = None
    if contexts is None and (input_len is not None or output_len is not None):
        contexts, prompts = (prompt, prompt + answered), (prompt,)
    question = Question(load=load, price=price, contexts=contexts, prompts=prompts)
    return Asked(question, calibration)


def tokens(option: str, text: str) -> int:
    """A count of tokens, as the spec takes it: ``8192``, ``8k``, ``8K``."""
    text = text.strip()
    short = text.isdecimal() and len(text) <= _LONGEST_COUNT
    count = int(text) if short else parse_count(text)
    if not isinstance(count, int) or count < 1:
        raise UsageError(
            f"{option} {text[:40]}: takes a whole number of tokens from 1 on, such as 1024 or 8K"
        )
    return count


def answer(selection: SpecSelection, gpu: str, asked: Asked, *, advise: bool = False) -> Answer:
    """The plan for device ``gpu``; with ``advise`` also what to change. Raises errors of spec and checkpoint."""
    chosen = choose(selection, gpu)
    loaded, spec = chosen.loaded, chosen.loaded.spec
    try:
        model = model_facts(spec, loaded.base, cache_dir())
    except MissingExtraError as error:  # to make the tiny checkpoint, which nobody may have asked for
        if selection.preset is None and not loaded.files:
            raise UsageError(
                "nothing is named to plan: give a preset, such as tri-21b-awq, or a spec with -f FILE",
                hint="tri-serve presets lists the presets; the tiny checkpoint, which is planned otherwise, needs "
                f"the optional part '{error.extra}': {error.hint}",
            ) from error
        raise
    catalogue = load_catalogue()
    warnings: list[str] = []
    tables = load_tables(asked.calibrations, damaged=warnings.append)

    def planned(spec: Spec, model: ModelFacts, device: PlanDevice) -> Plan:
        return make_plan(
            spec,
            model=model,
            device=device,
            question=asked.question,
            tables=tables,
            larger=_larger(catalogue, device.gpu),
        )

    def planner(spec: Spec, device: PlanDevice) -> Plan:
        return planned(spec, model, device)

    def elsewhere(gpu: Gpu) -> Plan:
        other = choose(selection, gpu.name)
        return planner(other.loaded.spec, other.device)

    plan = planner(spec, chosen.device)
    if not plan.refused:
        plan = plan.model_copy(update={"command": _command(chosen)})
        if advise:
            gpus = _by_size(catalogue)
            stored = stored_otherwise(selection, gpu, plan, model, planned)
            more = changes(plan, spec, chosen.device, planner, gpus, elsewhere, stored)
            plan = plan.model_copy(update={"changes": more})
    return Answer(
        plan=plan,
        title=f"{loaded.preset or spec.model.served_name} on {plan.device.title}",
        notes=(*chosen.notes, *_of_version(spec), *_unused(tables[: len(asked.calibrations)], plan)),
        warnings=tuple(warnings),
        notices=loaded.notes,
        # What `up` starts and watches over itself is vLLM.
        start=None if plan.refused or spec.engine.kind != "vllm" else _start(selection, gpu, chosen),
    )


def _unused(named: Sequence[CalibrationTable], plan: Plan) -> tuple[str, ...]:
    """What the calibrations that were named hold, where the plan was made without them."""
    if plan.speed is None:
        return ()
    words = []
    for table in named:
        if table.file == plan.speed.evidence_file:
            continue
        held = dict.fromkeys(
            f"{entry.gpu} with {entry.engine} {entry.minor} {entry.quantization}"
            for entry in table.calibrations
        )
        words.append(
            f"{table.file} was not used: it holds {', '.join(held) or 'nothing'}, and this plan is for "
            f"{plan.device.name} with {plan.engine} {plan.model.quantization.partition(',')[0]}"
        )
    return tuple(words)


def _of_version(spec: Spec) -> tuple[str, ...]:
    """What is said of an engine that is newer than all whose flags are known."""
    from tri_serve.launch.version_gates import newer_than_known

    words = newer_than_known(spec.engine.kind, spec.engine.version)
    return () if words is None else (words,)


def _larger(catalogue: Mapping[str, Gpu], than: Gpu) -> tuple[Gpu, ...]:
    """The GPUs of the catalogue with more memory or more bandwidth, smallest and slowest first."""
    others = (gpu for gpu in _by_size(catalogue) if gpu.name != than.name)
    return tuple(gpu for gpu in others if gpu.memory > than.memory or gpu.bandwidth > than.bandwidth)


def _by_size(catalogue: Mapping[str, Gpu]) -> tuple[Gpu, ...]:
    """The GPUs of the catalogue, smallest and slowest first."""
    gpus = (gpu for gpu in catalogue.values() if not gpu.is_cpu)
    return tuple(sorted(gpus, key=lambda gpu: (gpu.memory, gpu.bandwidth)))


def _command(chosen: Chosen) -> str | None:
    """The engine's own command; none for the tiny checkpoint, which only ``tri-serve up`` can name."""
    from tri_serve.launch.standalone import standalone_launch
    from tri_serve.launch.vllm_options import OFFLINE, PRIVATE

    spec = chosen.loaded.spec
    if spec.model.source.startswith(TINY):
        return None
    if not chosen.loaded.has_source:
        spec = spec.model_copy(update={"model": spec.model.model_copy(update={"source": STAND_IN_SOURCE})})
    if spec.engine.device == "auto":
        device = "cpu" if chosen.device.gpu.is_cpu else "cuda"
        spec = spec.model_copy(update={"engine": spec.engine.model_copy(update={"device": device})})
    launch = standalone_launch(spec)
    # What keeps an engine from asking a hub or telling of itself is in what `tri-serve render` writes.
    needed = {name: value for name, value in launch.env.items() if name not in OFFLINE | PRIVATE}
    variables = (f"{name}={shlex.quote(value)}" for name, value in needed.items())
    return " ".join((*variables, shlex.join(mask_arguments(launch.argv))))


def _start(selection: SpecSelection, gpu: str, chosen: Chosen) -> str:
    """``tri-serve up`` with the same spec, without secrets."""
    words = ["tri-serve", "up", *([selection.preset] if selection.preset else [])]
    words += [word for path in selection.files for word in ("-f", str(path))]
    if gpu != AUTO:
        words += ["--gpu", gpu]
    for option, assignments in (("--set", selection.sets), ("--set-string", selection.set_strings)):
        words += [word for said in assignments for word in (option, mask_assignment(said))]
    if not chosen.loaded.has_source:
        words += ["--set", f"model.source={STAND_IN_SOURCE}"]
    return shlex.join(words)
