"""All rules, in the order in which their findings are read: what stops everything first."""

from __future__ import annotations

from tri_serve.plan.constraints import (
    attention,
    conflicts,
    dead_flags,
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
from tri_serve.plan.constraints.rule import Rule
from tri_serve.plan.result import Finding


def all_rules() -> tuple[Rule, ...]:
    """Every rule, once."""
    return (
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
    """What the rules find: refusals first, then warnings, then notes, each in the order of the rules."""
    findings = [finding for rule in all_rules() for finding in rule.find(request)]
    order = ("refusal", "warning", "note")
    return tuple(sorted(findings, key=lambda finding: order.index(finding.severity)))
