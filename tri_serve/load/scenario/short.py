"""Options that stand for keys of a scenario: ``--duration 60s`` for ``window``, ``--request-rate`` for arrivals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tri_serve.errors import UsageError
from tri_serve.load.scenario.models import Constant, Gamma, Poisson, Spike
from tri_serve.load.scenario.reading import read_scenario
from tri_serve.spec.fields import DURATION_PATTERN

_MOST_RATE = 100_000
"""As scenario/models.py has it."""


@dataclass(frozen=True)
class Short:
    """What was given of them, as text; empty: not given."""

    request_rate: str = ""
    max_concurrency: str = ""
    """With a rate: how many may be open. Without: so many users of a closed loop, which is what vLLM's benchmark
    does with it where no rate is given."""
    duration: str = ""
    warm_up: str = ""
    num_prompts: str = ""
    seed: str = ""

    def overrides(self, scenario: str, sets: Sequence[str] = ()) -> tuple[str, ...]:
        """As KEY=VALUE for ``read_scenario``. ``sets`` are further ones, which say more exactly what is meant.

        Raises UsageError for what is no such value, naming the option.
        """
        changed = []
        for option, key, text in (
            ("--duration", "window", self.duration),
            ("--warm-up", "warm_up", self.warm_up),
        ):
            if text:
                changed.append(f"{key}={_duration(option, text)}")
        for option, key, text in (
            ("--num-prompts", "requests", self.num_prompts),
            ("--seed", "seed", self.seed),
        ):
            if text:
                changed.append(f"{key}={_whole(option, text, least=0 if key == 'seed' else 1)}")
        if self.request_rate:
            rate = _rate(self.request_rate)
            arrivals = read_scenario(scenario, tuple(sets)).scenario.arrivals
            keeps = isinstance(arrivals, Constant | Poisson | Gamma | Spike)
            changed.append(f"arrivals.rate={rate}" if keeps else f"arrivals={{kind: poisson, rate: {rate}}}")
        if self.max_concurrency:
            most = _whole("--max-concurrency", self.max_concurrency, least=1)
            closed = f"arrivals={{kind: closed, users: {most}}}"
            changed.append(f"most_open={most}" if self.request_rate else closed)
        return (*changed, *sets)


def _duration(option: str, text: str) -> str:
    if re.fullmatch(DURATION_PATTERN, text):
        return text
    if re.fullmatch(r"\d+(\.\d+)?", text):
        raise UsageError(f"{option} {text}: a duration without a unit; write {text}s, {text}ms or {text}m")
    raise UsageError(f"{option} {text}: not a duration; write it as 500ms, 60s, 2m or 1h")


def _whole(option: str, text: str, *, least: int) -> int:
    if not re.fullmatch(r"\d{1,18}", text) or int(text) < least:
        raise UsageError(f"{option} {text}: a whole number from {least} on is allowed")
    return int(text)


def _rate(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= _MOST_RATE:
        raise UsageError(
            f"--request-rate {text}: a number above 0 and up to {_MOST_RATE} requests a second is allowed",
            hint="a load without a rate is a closed loop: --max-concurrency 32"
            if text in ("inf", "infinity")
            else None,
        )
    return repr(number)
