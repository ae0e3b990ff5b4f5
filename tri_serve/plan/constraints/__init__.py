"""What cannot work, as rules: each names its numbers, its source, and the nearest configuration that works."""

from tri_serve.plan.constraints.kernels import kernel_expectation
from tri_serve.plan.constraints.remedies import remedied
from tri_serve.plan.constraints.request import Planner, Request, apply_change, parse_version
from tri_serve.plan.constraints.rule import Found, Rule
from tri_serve.plan.constraints.rules import all_rules, check

__all__ = [
    "Found",
    "Planner",
    "Request",
    "Rule",
    "all_rules",
    "apply_change",
    "check",
    "kernel_expectation",
    "parse_version",
    "remedied",
]
