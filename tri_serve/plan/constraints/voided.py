"""Flags that change what the rules count with: where one stands, the engine knows better than arithmetic."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from tri_serve.plan.flags import flags_in
from tri_serve.spec.engine import EngineSpec

LONGER = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
OVERRIDES = "--hf-overrides"
_LEAST_LETTERS = 7
"""Of a flag that is cut short: ``--pipe``. vLLM takes any beginning that is unambiguous."""
_OF_MEMORY: Mapping[str, str | None] = {
    "--cpu-offload-gb": "0",
    "--offload-backend": None,
    "--offload-group-size": "0",
    "--pipeline-parallel-size": "1",
    "--decode-context-parallel-size": "1",
    "--prefill-context-parallel-size": "1",
    "--num-gpu-blocks-override": None,
    "--hf-config-path": None,
    "--load-format": None,
    "--quantization-config": None,
}
"""Each with the value that changes nothing. Load formats are among them since one (bitsandbytes) quantises."""
_SHORT = {
    "-pp": "--pipeline-parallel-size",
    "-dcp": "--decode-context-parallel-size",
    "-pcp": "--prefill-context-parallel-size",
}
_OF_CONTEXT = frozenset({"rope_parameters", "rope_scaling", "rope_theta", "max_position_embeddings"})
"""Keys of config.json on which only the context depends."""
_HARMLESS_FORMATS = frozenset({"auto", "safetensors", "hf"})


def memory_voided_by(extra_args: Sequence[str]) -> str | None:
    """The flag, as it is written, that puts other bytes on a GPU than are counted here; None: there is none."""
    for written, name, value in _given(extra_args):
        known = next((flag for flag in _OF_MEMORY if _means(name, flag)), None)
        if known is not None and (value is None or not _changes_nothing(known, value)):
            return written
        if _means(name, OVERRIDES) and not _keys_of_overrides(name, value) <= _OF_CONTEXT:
            return written
    return None


def context_voided_by(engine: EngineSpec) -> str | None:
    """What lets a context be longer than config.json says: a flag or a variable; None: nothing does."""
    for written, name, _ in _given(engine.extra_args):
        if _means(name, OVERRIDES) or _means(name, "--hf-config-path"):
            return written
    return LONGER if is_set(engine, LONGER) else None


def is_set(engine: EngineSpec, variable: str) -> bool:
    """Whether ``engine.env`` says yes to a variable that vLLM reads so (0.32, envs.py)."""
    return engine.env.get(variable, "0").strip().lower() in ("1", "true")


def _given(extra_args: Sequence[str]) -> Iterator[tuple[str, str, str | None]]:
    """Each flag as written, by its name, and its value; short forms among them."""
    long = [
        f"{_SHORT[argument.partition('=')[0]]}{argument[len(argument.partition('=')[0]) :]}"
        if argument.partition("=")[0] in _SHORT
        else argument
        for argument in extra_args
    ]
    for flag in flags_in(long):
        yield extra_args[flag.start].partition("=")[0], flag.name, flag.value


def _means(name: str, flag: str) -> bool:
    """Whether ``name`` is ``flag``, begins it, or is a key within its JSON (``--hf-overrides.rope_theta``)."""
    whole = name.partition(".")[0]
    return whole == flag or (len(whole) >= _LEAST_LETTERS and flag.startswith(whole))


def _changes_nothing(flag: str, value: str) -> bool:
    if flag == "--load-format":
        return value.lower() in _HARMLESS_FORMATS
    neutral = _OF_MEMORY[flag]
    try:
        return neutral is not None and float(value) == float(neutral)
    except ValueError:
        return False


def _keys_of_overrides(name: str, value: str | None) -> frozenset[str]:
    """Keys of config.json that are overridden; those that cannot be read count as one of no name."""
    inner = name.partition(".")[2]
    if inner:
        return frozenset({inner.partition(".")[0].replace("-", "_")})
    try:
        overrides = json.loads(value or "")
    except ValueError:
        return frozenset({""})
    return frozenset(overrides) if isinstance(overrides, dict) else frozenset({""})
