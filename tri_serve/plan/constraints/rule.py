"""One rule: what it is called, where it is from, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tri_serve.plan.constraints.request import Request
from tri_serve.plan.result import Finding

Severity = Literal["refusal", "warning", "note"]


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

    def find(self, request: Request) -> tuple[Finding, ...]:
        """What the rule finds in ``request``, as people and programs read it."""
        if request.spec.engine.kind != "vllm" and not self.any_engine:
            return ()
        return tuple(
            Finding(
                rule=self.name,
                severity=found.severity,
                message=found.message,
                source=self.source,
                change=dict(found.change),
                advice=found.advice,
            )
            for found in self.check(request)
        )
