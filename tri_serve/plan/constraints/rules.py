"""All rules, in the order in which their findings are read: what stops everything first."""

from __future__ import annotations

from collections.abc import Sequence

from tri_serve.plan.constraints import (
    attention,
    conflicts,
    dead_flags,
    device,
    driver,
    dtypes,
    limits,
    memory,
    model_code,
    other_engine,
    quantization,
    tensor_parallel,
)
from tri_serve.plan.constraints.request import Request
from tri_serve.plan.constraints.rule import Found, Rule
from tri_serve.plan.result import Finding


def all_rules() -> tuple[Rule, ...]:
    """Every rule, once."""
    return (
        *device.RULES,
        *model_code.RULES,
        *quantization.RULES,
        *tensor_parallel.RULES,
        *attention.RULES,
        *dtypes.RULES,
        *limits.RULES,
        *memory.RULES,
        *driver.RULES,
        *dead_flags.RULES,
        *conflicts.RULES,
        *other_engine.RULES,
    )


def check(request: Request) -> tuple[Finding, ...]:
    """What the rules find: refusals first, then warnings, then notes, each in the order of the rules.

    Each change satisfies its own rule, and is not held against the others: ``remedies.remedied`` does that.
    """
    found = by_severity([(rule, one) for rule in all_rules() for one in rule.found(request)])
    return tuple(rule.finding(one) for rule, one in found)


def by_severity(found: Sequence[tuple[Rule, Found]]) -> list[tuple[Rule, Found]]:
    """Refusals first, then warnings, then notes."""
    order = ("refusal", "warning", "note")
    return sorted(found, key=lambda pair: order.index(pair[1].severity))
