"""What the rules find, naming only changes that work: each is made, and all rules are asked again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from pydantic import ValidationError

from tri_serve.plan.constraints.request import Request
from tri_serve.plan.constraints.rule import Found, Rule, Way
from tri_serve.plan.constraints.rules import all_rules, by_severity
from tri_serve.plan.result import Finding

_ROUNDS = 4
"""Times that what the rules say of a change is added to it. Each round settles at least one rule; more than a few
that depend on each other do not come up."""


def remedied(request: Request) -> tuple[Finding, ...]:
    """What the rules find, in their order, with changes that work.

    A change stays with its finding if it is refused by no rule that does not refuse now already; of a refusal, by
    none at all. No key is named by two of them. Where no single change does, and several together do, they stand
    with the last refusal.
    """
    found = by_severity([(rule, one) for rule in all_rules() for one in rule.found(request)])
    refused = {rule.name for rule, one in found if one.severity == "refusal"}
    findings: list[Finding] = []
    named: set[str] = set()
    for rule, one in found:
        allowed = set() if one.severity == "refusal" else refused
        kept = _kept(one, request, allowed)
        if named & kept.change.keys():
            kept = replace(kept, change={})
        named |= kept.change.keys()
        findings.append(rule.finding(kept))
    several = len([one for _, one in found if one.severity == "refusal"]) > 1
    if several and not any(finding.change for finding in findings if finding.severity == "refusal"):
        last = max(index for index, finding in enumerate(findings) if finding.severity == "refusal")
        findings[last] = findings[last].model_copy(update={"change": _together(request, found)})
    return tuple(findings)


def _kept(one: Found, request: Request, allowed: set[str]) -> Found:
    """``one`` with those of its changes and ways that work, the first of them as the change."""
    if one.ways:
        works = tuple(way for way in one.ways if _way_works(way, request, allowed))
        return replace(one, ways=works).settled() if works else replace(one, ways=())
    if one.change and not _works(request, one.change, allowed):
        return replace(one, change={})
    return one


def _way_works(way: Way, request: Request, allowed: set[str]) -> bool:
    if way.gpu is not None:
        return _refusals(request.on(way.gpu)) <= allowed
    return not way.change or _works(request, way.change, allowed)


def _works(request: Request, change: Mapping[str, str], allowed: set[str]) -> bool:
    try:
        return _refusals(request.changed(change)) <= allowed
    except ValidationError:
        return False  # the spec does not hold both, such as bounds of replicas beside a number of them


def _refusals(request: Request) -> set[str]:
    return {rule.name for rule, _ in _refusing(request)}


def _refusing(request: Request) -> Iterator[tuple[Rule, Found]]:
    for rule in all_rules():
        for one in rule.found(request):
            if one.severity == "refusal":
                yield rule, one.settled()


def _together(request: Request, found: list[tuple[Rule, Found]]) -> dict[str, str]:
    """What the refusals name, in one change that no rule refuses; empty if there is none."""
    change: dict[str, str] = {}
    refusing = [(rule, one.settled()) for rule, one in found if one.severity == "refusal"]
    for _ in range(_ROUNDS):
        said: dict[str, str] = {}
        for _, one in refusing:
            if not said.keys() & one.change.keys():
                said |= one.change
        if not said or said.items() <= change.items():
            return {}
        change |= said
        try:
            after = request.changed(change)
        except ValidationError:
            return {}
        refusing = list(_refusing(after))
        if not refusing:
            return change
    return {}
