"""Which replica gets a request: pure functions of what the worker knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Load:
    """What one worker knows of one replica when it decides."""

    name: str
    in_flight: int
    """Requests that this worker has running there."""


def least_loaded(loads: Sequence[Load], tie: int) -> int:
    """Index of the replica with the fewest requests in flight; ``tie`` (any integer) spreads equals.

    A fixed tie-break would send every first request of every worker to the same replica.

    Raises ValueError on an empty sequence.
    """
    if not loads:
        raise ValueError("no replica to choose from")
    fewest = min([load.in_flight for load in loads])
    equals = [index for index, load in enumerate(loads) if load.in_flight == fewest]
    return equals[tie % len(equals)]
