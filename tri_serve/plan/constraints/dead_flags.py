"""Flags that vLLM once had: since when it refuses to start with them, and what says the same now.

Versions are those whose engine/arg_utils.py was compared: 0.18, 0.24, 0.27, 0.28, 0.29, 0.30, 0.31 and 0.32. A flag
that 0.18 already lacks is dead for every version that tri-serve takes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tri_serve.plan.constraints.request import Request, Version
from tri_serve.plan.constraints.rule import Found, Rule
from tri_serve.plan.flags import Flag, as_change, flags_in

LONG_GONE: Version = (0, 18)


@dataclass(frozen=True)
class DeadFlag:
    """One flag, and its successor."""

    name: str
    instead: str
    """For people: what to write, or that nothing is needed."""
    gone: Version = LONG_GONE
    """The first version compared that lacks it."""
    successor: str | None = None
    """The flag that says the same; none: leaving it out does."""
    json_keys: tuple[str, ...] = ()
    """Where the value goes in the successor's JSON; none: the value is the successor's own."""
    fixed: str | None = None
    """The successor's value where the old flag had none."""


_ROPE = "use --hf-overrides '{\"rope_parameters\": …}'"
_PREEMPTION = "preempted requests are computed again: leave it out"

DEAD_FLAGS = (
    DeadFlag(
        "--disable-log-requests",
        "requests are not logged unless --enable-log-requests is given: leave it out",
    ),
    DeadFlag("--task", "use --runner or --convert; a model that generates text needs neither: leave it out"),
    DeadFlag("--rope-scaling", _ROPE, successor="--hf-overrides", json_keys=("rope_parameters",)),
    DeadFlag("--rope-theta", _ROPE, successor="--hf-overrides", json_keys=("rope_parameters", "rope_theta")),
    DeadFlag(
        "--guided-decoding-backend",
        "use --structured-outputs-config '{\"backend\": …}'",
        successor="--structured-outputs-config",
        json_keys=("backend",),
    ),
    DeadFlag("--enable-reasoning", "--reasoning-parser alone is enough"),
    DeadFlag(
        "--max-seq-len-to-capture",
        "use --max-cudagraph-capture-size, which counts sequences and not their length: leave it out",
    ),
    DeadFlag("--swap-space", _PREEMPTION),
    DeadFlag("--preemption-mode", _PREEMPTION),
    DeadFlag("--num-scheduler-steps", "scheduling is asynchronous by default: leave it out"),
    DeadFlag("--device", "set engine.device"),
    DeadFlag(
        "--worker-use-ray",
        "use --distributed-executor-backend ray",
        successor="--distributed-executor-backend",
        fixed="ray",
    ),
    DeadFlag("--use-v2-block-manager", "there is only one block manager now: leave it out"),
    DeadFlag(
        "--num-lookahead-slots",
        "use --speculative-config '{\"num_speculative_tokens\": …}', which counts them itself: leave it out",
    ),
    DeadFlag("--calculate-kv-scales", "scales come from the checkpoint: leave it out", gone=(0, 28)),
    DeadFlag("--override-attention-dtype", "attention computes in --dtype: leave it out", gone=(0, 28)),
    DeadFlag("--max-num-partial-prefills", "the scheduler decides: leave it out", gone=(0, 27)),
    DeadFlag("--max-long-partial-prefills", "the scheduler decides: leave it out", gone=(0, 27)),
)


def dead_in(version: Version) -> dict[str, DeadFlag]:
    """Those that an engine of that version does not know, by name."""
    return {flag.name: flag for flag in DEAD_FLAGS if version >= flag.gone}


def replaced(extra_args: Sequence[str], version: Version) -> tuple[str, ...]:
    """``extra_args`` with successors in the place of dead flags.

    A successor that is given already is left as it is: its value is the user's, and two would fight.
    """
    dead = dead_in(version)
    flags = list(flags_in(extra_args))
    given = {flag.name for flag in flags}
    arguments = list(extra_args)
    for flag in reversed(flags):
        if flag.name in dead:
            successor = _successor(dead[flag.name], flag)
            kept = [] if dead[flag.name].successor in given else successor
            arguments[flag.start : flag.end] = kept
            given |= {dead[flag.name].successor or ""} if kept else set()
    return tuple(arguments)


def _successor(dead: DeadFlag, flag: Flag) -> list[str]:
    value = dead.fixed if dead.fixed is not None else flag.value
    if dead.successor is None or value is None:
        return []
    if not dead.json_keys:
        return [f"{dead.successor}={value}"]
    try:
        nested = json.loads(value)
    except ValueError:
        # A word is text in JSON too, only without quotes.
        nested = value
    for key in reversed(dead.json_keys):
        nested = {key: nested}
    return [f"{dead.successor}={json.dumps(nested)}"]


def _dead(request: Request) -> Iterator[Found]:
    dead, arguments = dead_in(request.version), request.spec.engine.extra_args
    for flag in flags_in(arguments):
        if flag.name in dead:
            yield Found(
                "refusal",
                f"engine.extra_args: {request.engine} no longer has {flag.written}, and ends at once with "
                f'"unrecognized arguments"; {dead[flag.name].instead}',
                change=as_change(replaced(arguments, request.version)),
            )


DEAD = Rule(
    "dead-flags",
    "`engine.extra_args` holds no flag that this version of the engine has dropped.",
    "vLLM 0.18.0 to 0.32.0: engine/arg_utils.py and entrypoints/openai, compared",
    ("refusal",),
    _dead,
)

RULES = (DEAD,)
