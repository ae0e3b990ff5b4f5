"""One GPU's memory in the few parts that a picture of it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tri_serve.plan.result import MemoryPlan, Term

Role = Literal["weights", "working", "driver", "cache", "rest"]


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is there: more than 0 bytes."""

    role: Role
    name: str
    nbytes: int


def memory_parts(memory: MemoryPlan) -> tuple[Part, ...]:
    """Weights, what the engine works with, the KV cache, the driver, and what is left over.

    Small things are put together; the terms of the plan tell them apart. Where the model does not fit, the parts
    are more than the memory.
    """
    weights, *working, cache = memory.terms
    parts = [
        Part("weights", weights.name, weights.nbytes),
        Part("working", working[0].name if len(working) == 1 else "buffers and graphs", _sum(working)),
        Part("cache", cache.name, cache.nbytes),
        Part("driver", "driver", _sum(memory.outside[:-1])),
    ]
    there = [part for part in parts if part.nbytes > 0]
    there.append(Part("rest", "left over", memory.total - sum(part.nbytes for part in there)))
    return tuple(part for part in there if part.nbytes > 0)


def _sum(terms: Sequence[Term]) -> int:
    return sum(term.nbytes for term in terms)
