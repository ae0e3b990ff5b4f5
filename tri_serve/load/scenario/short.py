"""Options that stand for keys of a scenario: ``--duration 60s`` for ``window``, ``--request-rate`` for arrivals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tri_serve.errors import UsageError
from tri_serve.load.scenario.models import Constant, Gamma, Poisson, Spike
from tri_serve.load.scenario.reading import read_scenario
from tri_serve.spec.fields import DURATION_PATTERN, parse_duration

_MOST_RATE = _MOST_USERS = 100_000
_MOST_REQUESTS, _MOST_OPEN, _MOST_SEED = 100_000_000, 1_000_000, 2**63 - 1
_MOST_SECONDS = 86_400.0
"""As scenario/models.py has them."""


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
                changed.append(f"{key}={_duration(option, text, zero=key == 'warm_up')}")
        for option, key, text, least, limit in (
            ("--num-prompts", "requests", self.num_prompts, 1, _MOST_REQUESTS),
            ("--seed", "seed", self.seed, 0, _MOST_SEED),
        ):
            if text:
                changed.append(f"{key}={_whole(option, text, least=least, most=limit)}")
        if self.request_rate:
            rate = _rate(self.request_rate)
            arrivals = read_scenario(scenario, tuple(sets)).scenario.arrivals
            keeps = isinstance(arrivals, Constant | Poisson | Gamma | Spike)
            changed.append(f"arrivals.rate={rate}" if keeps else f"arrivals={{kind: poisson, rate: {rate}}}")
        if self.max_concurrency:
            self._refuse_rates(sets)
            limit = _MOST_OPEN if self.request_rate else _MOST_USERS
            most = _whole("--max-concurrency", self.max_concurrency, least=1, most=limit)
            closed = f"arrivals={{kind: closed, users: {most}}}"
            changed.append(f"most_open={most}" if self.request_rate else closed)
        return (*changed, *sets)

    def _refuse_rates(self, sets: Sequence[str]) -> None:
        """A rate by --set is meant for arrivals that --max-concurrency alone takes away."""
        for entry in sets:
            key, _, value = (part.strip() for part in entry.partition("="))
            if key == "arrivals.rate" and not self.request_rate:
                raise UsageError(
                    f"--set {entry}: the closed loop of --max-concurrency {self.max_concurrency} has no rate",
                    hint=f"--request-rate {value} --max-concurrency {self.max_concurrency} sends at that rate, "
                    "with at most so many open",
                )


def _duration(option: str, text: str, *, zero: bool) -> str:
    if re.fullmatch(DURATION_PATTERN, text):
        seconds = parse_duration(text)
        if isinstance(seconds, float) and (0 if zero else 1e-9) <= seconds <= _MOST_SECONDS:
            return text
        least = "from 0 on" if zero else "above 0"
        raise UsageError(f"{option} {text}: a duration {least} and up to a day is allowed")
    if re.fullmatch(r"\d+(\.\d+)?", text):
        raise UsageError(f"{option} {text}: a duration without a unit; write {text}s, {text}ms or {text}m")
    raise UsageError(f"{option} {text}: not a duration; write it as 500ms, 60s, 2m or 1h")


def _whole(option: str, text: str, *, least: int, most: int) -> int:
    if not re.fullmatch(r"\d{1,19}", text) or not least <= int(text) <= most:
        raise UsageError(f"{option} {text}: a whole number from {least} to {most} is allowed")
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
