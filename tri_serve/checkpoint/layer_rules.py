"""Regular expressions that a checkpoint's config.json brings along: how long one of them can take.

Python's ``re`` tries one way after another, of which ``([\\w.]+)+!`` has more than any machine can try. Nothing
ends it from outside, so that such an expression is not begun.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MOST_WAYS = 2**22
"""Of all of a checkpoint's expressions together. Three ``.*`` in a row are 2**21: some milliseconds a layer."""
_LONGEST = 4_096
"""Characters of one expression."""
_BASE = 2**12
"""Counted for each: compiling it takes as long as many ways."""
_ANY_NUMBER = 128
"""How often a part can be there at most: the longest name of a layer has fewer characters."""
_LARGEST_COUNT = 1_000
"""In braces."""

_TOKEN = re.compile(
    r"""
    (?P<open>\((?:\?(?::|<?[=!]|P<\w+>))?(?!\?))
    | (?P<close>\))
    | (?P<branch>\|)
    | (?P<repeat>(?:[*+?]|\{(?:\d+|\d*,\d*)\})[?+]?)
    | (?P<atom>\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[^()\[\\])
    """,
    re.VERBOSE | re.DOTALL,
)


def ways(rules: Iterable[str]) -> int:
    """A bound on the ways to match a layer's name in which all ``rules`` together can be tried.

    At most a little above MOST_WAYS, which also stands for what this does not understand (flags, conditions).
    Whether Python takes an expression is not judged.
    """
    total = 0
    for rule in rules:
        total += _BASE + (_ways(rule) if len(rule) <= _LONGEST else MOST_WAYS + 1)
        if total > MOST_WAYS:
            return MOST_WAYS + 1
    return total


@dataclass
class _Group:
    """A group that is still open, of whose branches one is read."""

    branches: int = 0
    """Ways of those that are complete."""
    before: int = 1
    """Ways of what of the branch precedes ``last``."""
    last: int = 1
    """Ways of what a repeat would be about."""

    def add(self, ways: int) -> None:
        self.before, self.last = _least(self.before * self.last), ways

    def end_branch(self) -> None:
        self.branches = _least(self.branches + self.before * self.last)
        self.before = self.last = 1


def _ways(rule: str) -> int:
    groups = [_Group()]
    position = 0
    while position < len(rule):
        token = _TOKEN.match(rule, position)
        if token is None:
            return MOST_WAYS + 1
        position = token.end()
        if token["open"]:
            groups.append(_Group())
        elif token["close"]:
            closed = groups.pop()
            if not groups:
                return MOST_WAYS + 1
            closed.end_branch()
            groups[-1].add(closed.branches)
        elif token["branch"]:
            groups[-1].end_branch()
        elif token["repeat"]:
            groups[-1].last = _repeated(groups[-1].last, token["repeat"])
        else:
            groups[-1].add(1)
    groups[0].end_branch()
    return groups[0].branches


def _repeated(once: int, sign: str) -> int:
    least, most = _bounds(sign)
    if most > _LARGEST_COUNT:
        return MOST_WAYS + 1
    least, most = min(least, _ANY_NUMBER), min(most, _ANY_NUMBER)
    if once > 1:  # each time in its own way
        return _least(sum(once**times for times in range(least, most + 1)))
    # As many also where that is the least: Python counts, even what is empty.
    return max(most, most - least + 1)


def _bounds(sign: str) -> tuple[int, int]:
    """How often a part may be there, at the least and at the most."""
    if sign[0] != "{":
        return (0, 1) if sign[0] == "?" else (0, _ANY_NUMBER)
    least, comma, most = sign[1 : sign.index("}")].partition(",")
    low = int(least[:9] or 0)
    high = low if not comma else int(most[:9]) if most else _ANY_NUMBER
    return low, max(low, high)


def _least(ways: int) -> int:
    return min(ways, MOST_WAYS + 1)
