"""Numbers of tokens drawn from what a scenario says of them."""

from __future__ import annotations

import math
from random import Random

from tri_serve.load.scenario.models import Lengths

_TRIES = 100


def draw(lengths: Lengths, random: Random) -> int:
    """One length. A log-normal one that falls outside its ends is drawn again, so that none piles up at an end;
    where a hundred in a row do, the nearer end is taken."""
    if lengths.fixed is not None:
        return lengths.fixed
    assert lengths.min is not None and lengths.max is not None
    if lengths.median is None or lengths.sigma is None:
        return random.randint(lengths.min, lengths.max)
    centre, length = math.log(lengths.median), 0
    for _ in range(_TRIES):
        length = round(math.exp(random.gauss(centre, lengths.sigma)))
        if lengths.min <= length <= lengths.max:
            return length
    return min(max(length, lengths.min), lengths.max)


def longest(lengths: Lengths) -> int:
    """The most that can be drawn."""
    most = lengths.fixed if lengths.fixed is not None else lengths.max
    assert most is not None
    return most


def shortest(lengths: Lengths) -> int:
    """The least that can be drawn."""
    least = lengths.fixed if lengths.fixed is not None else lengths.min
    assert least is not None
    return least
