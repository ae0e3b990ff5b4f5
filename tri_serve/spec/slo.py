"""What a load is promised: ``--slo ttft=500ms,tpot=50ms``, or as vLLM's ``--goodput ttft:500 tpot:50``."""

from __future__ import annotations

import re

from tri_serve.errors import UsageError
from tri_serve.spec.fields import Seconds, SpecModel, parse_duration

_FIELDS = {"ttft": "ttft", "tpot": "tpot", "e2e": "e2e", "e2el": "e2e"}
"""What each name means; e2el is how vLLM 0.32 spells it (vllm/benchmarks/serve.py, ``check_goodput_args``)."""
_MOST_SECONDS = 86_400.0
_ALLOWED = (
    "allowed is ttft, tpot and e2e, as in 'ttft=500ms,tpot=50ms', or in milliseconds 'ttft:500 tpot:50'"
)


class Slo(SpecModel):
    """Seconds that a request may take; none: nothing is promised."""

    ttft: Seconds | None = None
    """Until its first token."""
    tpot: Seconds | None = None
    """From each token to the next, averaged over the request."""
    e2e: Seconds | None = None
    """Until its last token."""

    def __str__(self) -> str:
        promises = {"ttft": self.ttft, "tpot": self.tpot, "e2e": self.e2e}
        return ",".join(f"{name}={1000 * s:g}ms" for name, s in promises.items() if s is not None)


def parse_slo(text: str) -> Slo:
    """``text`` in either form, or both mixed. Raises UsageError, in one line, at what is not understood."""
    values: dict[str, float] = {}
    for part in re.split(r"[,\s]+", text.strip()):
        found = re.fullmatch(r"([A-Za-z0-9]+)([=:])(\S+)", part)
        name = _FIELDS.get(found[1].lower()) if found else None
        if found is None or name is None:
            raise UsageError(f"--slo: {part or text!r} is not understood; {_ALLOWED}")
        if name in values:
            raise UsageError(f"--slo: {name} is given twice")
        values[name] = _seconds(part, found[3], milliseconds=found[2] == ":")
    return Slo(**values)


def _seconds(part: str, value: str, *, milliseconds: bool) -> float:
    bare = re.fullmatch(r"\d+(\.\d+)?", value) is not None
    if bare and not milliseconds:
        raise UsageError(f"--slo: {part!r} has no unit; write {part}ms or {part}s")
    seconds = float(value) / 1000 if bare else parse_duration(value)
    if not isinstance(seconds, float):
        raise UsageError(f"--slo: {value!r} in {part!r} is no duration; {_ALLOWED}")
    if not 0 < seconds <= _MOST_SECONDS:
        raise UsageError(f"--slo: {part!r} is out of range; more than 0 and at most a day is allowed")
    return seconds
