"""The launch config: the exact argv and environment of one engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LaunchConfig:
    """Everything that starting one engine needs. Safe to print: ``secret_env`` is left out of ``repr``."""

    argv: tuple[str, ...]
    """Program and arguments; never holds a secret, since every user of the machine can read argv."""
    env: Mapping[str, str]
    """Variables to set on top of the inherited environment that ``inherited_environment`` leaves."""
    secret_env: Mapping[str, str] = field(repr=False)
    """Further variables, whose values are never shown or stored in the clear."""
    host: str
    """Address that the engine listens on."""
    port: int
    nice: int = 0
    """How far it stands back from other programs that want the cores, 0 to 19 (nice(1))."""
