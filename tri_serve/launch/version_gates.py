"""Which options an engine of one version takes: what it lacks is refused before it is started.

The tables of launch/flags say what each version knows. A version between two tables is judged by the older
one; one that is newer than all of them by the newest, and then only what tri-serve itself emits is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tri_serve.errors import LaunchError
from tri_serve.launch.flags.table import UNKNOWN, Flag, FlagTable, known_versions, read_table
from tri_serve.launch.options import Option
from tri_serve.spec.engine import EngineKind

TITLES = {"vllm": "vLLM", "sglang": "SGLang"}
"""The engines' names as their projects write them."""


@dataclass(frozen=True)
class VersionGate:
    """What ``engine`` of ``version`` knows."""

    engine: EngineKind
    version: str
    """As the spec says it."""
    of: tuple[int, ...]
    """The version whose table counts."""

    @cached_property
    def table(self) -> FlagTable:
        """The table, read when it is first asked."""
        return read_table(self.engine, self.of)

    @property
    def title(self) -> str:
        """For people: ``vLLM 0.32.0``."""
        return f"{TITLES[self.engine]} {self.version}"

    @property
    def is_exact(self) -> bool:
        """Whether there is a table of this very version, so that a flag it does not list does not exist."""
        return _numbers(self.version)[: len(self.of)] == self.of

    def find(self, written: str) -> Flag | None:
        """The flag of this version that an argument names."""
        return self.table.find(written)

    def default(self, name: str) -> Any:
        """What the engine takes where the flag is not given; UNKNOWN where that cannot be said."""
        flag = self.table.by_spelling.get(name)
        return UNKNOWN if flag is None else flag.default

    def check(self, options: Iterable[Option]) -> None:
        """Raises LaunchError for the first option that this version does not take."""
        for option in options:
            flag = self.table.by_spelling.get(option.flag)
            if flag is None:
                raise self.unknown(option.flag, option.key)
            if flag.choices and option.value is not None and option.value not in flag.choices:
                asked = f"{option.key}: " if option.key else ""
                raise LaunchError(
                    f"{asked}{self.title} does not take {option.flag} {option.value}; "
                    f"it takes {', '.join(flag.choices)}",
                    hint=self._where(option.flag, option.key, option.value),
                )

    def unknown(self, name: str, key: str) -> LaunchError:
        """The error for a flag that this version lacks; ``key`` of the spec asks for it."""
        asked = f"{key}: " if key else ""
        return LaunchError(f"{asked}{self.title} has no {name}", hint=self._where(name, key, None))

    def _where(self, name: str, key: str, value: str | None) -> str | None:
        """Which versions do take it, and what to set."""
        leave = f", or leave {key} out" if key else ""
        having = [version for version in known_versions(self.engine) if self._takes(version, name, value)]
        later = [version for version in having if version > self.of]
        if later:
            text = _text(later[0])
            return f"it came with {text}: set engine.version to {text}{'.0' * (len(later[0]) == 2)} or later{leave}"
        if having:
            return f"the last version that takes it is {_text(having[-1])}{leave}"
        return f"no version that tri-serve knows takes it{leave}"

    def _takes(self, version: tuple[int, ...], name: str, value: str | None) -> bool:
        flag = read_table(self.engine, version).by_spelling.get(name)
        return flag is not None and (value is None or not flag.choices or value in flag.choices)


def version_gate(engine: EngineKind, version: str) -> VersionGate:
    """The gate of a version. Raises LaunchError if it is older than all that tri-serve knows."""
    numbers = _numbers(version)
    known = known_versions(engine)
    fitting = [of for of in known if of <= numbers[: len(of)]]
    if not fitting:
        oldest = _text(known[0])
        # vLLM 0.18 is the first that has it; without it every stop cuts off what is running.
        lacks = "; it has no --shutdown-timeout, which came with 0.18" if engine == "vllm" else ""
        raise LaunchError(
            f"engine.version: {TITLES[engine]} {version} is too old{lacks}",
            hint=f"set engine.version to {oldest} or later",
        )
    return VersionGate(engine, version, fitting[-1])


def newer_than_known(engine: EngineKind, version: str) -> str | None:
    """What to know of a version that came after the newest table, in a sentence; None of any other."""
    newest = known_versions(engine)[-1]
    if _numbers(version)[: len(newest)] <= newest:
        return None
    return (
        f"{TITLES[engine]} {version} is newer than {_text(newest)}, the newest whose flags are known: checked "
        f"against {_text(newest)}"
    )


def without_defaults(options: Sequence[Option], gate: VersionGate) -> list[Option]:
    """The options that say something else than this version takes anyway."""
    return [option for option in options if not _is_default(option, gate.default(option.flag))]


def _is_default(option: Option, default: Any) -> bool:
    if default is UNKNOWN or default is None or option.value is None:
        return False
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        return float(option.value) == default
    return option.value == str(default)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
