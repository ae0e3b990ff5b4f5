"""One rule: what it is called, where it is from, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from tri_serve.plan.constraints.request import Request
from tri_serve.plan.facts import Gpu
from tri_serve.plan.result import Finding

Severity = Literal["refusal", "warning", "note"]


@dataclass(frozen=True)
class Way:
    """One way out of several, least change first."""

    words: str
    """What works then, for people."""
    change: Mapping[str, str] = field(default_factory=dict)
    """Keys of the spec and the values to give them; empty: no key says it."""
    gpu: Gpu | None = None
    """Another kind of GPU to take; none: the same."""


@dataclass(frozen=True)
class Found:
    """What a check says; with its rule's name and source it is a Finding."""

    severity: Severity
    """``refusal``: the engine would not start, or would answer wrongly."""
    message: str
    """What, with the numbers."""
    change: Mapping[str, str] = field(default_factory=dict)
    """Keys of the spec and the nearest values with which this rule finds nothing; empty: none does."""
    advice: str = ""
    """What to do where no key of the spec says it."""
    ways: tuple[Way, ...] = ()
    """In place of ``change`` and ``advice``, where there are several: the first that changes keys becomes the
    change, the others are put into words."""

    def settled(self) -> Found:
        """With the first of its ways as the change, and the others in words."""
        if not self.ways:
            return self
        first = next((way for way in self.ways if way.change), None)
        words = [way.words for way in self.ways if way is not first]
        change = {} if first is None else first.change
        return replace(self, change=change, advice="; ".join(words), ways=())


@dataclass(frozen=True)
class Rule:
    """One thing that cannot work, or that a user should know."""

    name: str
    title: str
    """What must hold, in one sentence."""
    source: str
    """The engine's source with its version, a vendor's document, or arithmetic."""
    severities: tuple[Severity, ...]
    """What its findings can be."""
    check: Callable[[Request], Iterator[Found]]
    any_engine: bool = False
    """Whether it is as true of SGLang; the others are read from vLLM's source, and are not held against SGLang."""

    def found(self, request: Request) -> tuple[Found, ...]:
        """What the rule finds in ``request``."""
        if request.spec.engine.kind != "vllm" and not self.any_engine:
            return ()
        return tuple(self.check(request))

    def find(self, request: Request) -> tuple[Finding, ...]:
        """The same, as people and programs read it."""
        return tuple(self.finding(found) for found in self.found(request))

    def finding(self, found: Found) -> Finding:
        """With the rule's name and source."""
        found = found.settled()
        return Finding(
            rule=self.name,
            severity=found.severity,
            message=found.message,
            source=self.source,
            change=dict(found.change),
            advice=found.advice,
        )
