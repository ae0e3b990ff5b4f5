"""How many replicas a fleet should have for its load. Pure: loads and a clock go in, a number comes out.

The rule is that of Kubernetes' Horizontal Pod Autoscaler with stabilisation windows
(https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/): each look at the load makes a
wish, ceil(load / target); the fleet grows only to the smallest wish of the last ``scale_up_after`` seconds and
shrinks only to the largest of the last ``scale_down_after`` seconds. A load that comes and goes within those
times moves nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from tri_serve.spec.fleet import Autoscaling

TOLERANCE = 0.1
"""A load within this share of what the replicas are meant for wishes for no other number: HPA's default.
Without it a steady load that lies at a step would wish for one number and the next in turn."""


class Autoscaler:
    """Judges the load of one fleet, look by look; looks a second or so apart are near enough."""

    def __init__(self, rule: Autoscaling, clock: Callable[[], float]) -> None:
        self._rule = rule
        self._clock = clock
        # (since when, how many), oldest first; a wish stands until the next one begins.
        self._wishes: deque[tuple[float, int]] = deque()

    def observe(self, load: int, replicas: int) -> int:
        """How many replicas there should be from now on.

        ``load`` is the number of requests that run in the engines or wait, in them or in a gateway;
        ``replicas`` how many there are or are on their way, those that drain left out.
        """
        now = self._clock()
        wish = self._wish(load, replicas)
        if not self._wishes or self._wishes[-1][1] != wish:
            self._wishes.append((now, wish))
        self._forget(now)
        lowest = min(self._wishes_since(now - self._rule.scale_up_after, replicas))
        highest = max(self._wishes_since(now - self._rule.scale_down_after, replicas))
        # The wish of this moment is among both, so lowest <= highest.
        return self._bounded(min(max(replicas, lowest), highest))

    def _wish(self, load: int, replicas: int) -> int:
        meant_for = replicas * self._rule.target
        if abs(load - meant_for) <= TOLERANCE * meant_for:
            return self._bounded(replicas)
        return self._bounded(math.ceil(load / self._rule.target))

    def _wishes_since(self, start: float, replicas: int) -> list[int]:
        """What was wished for at any time from ``start`` on; before the first look, what there is."""
        before = [wish for since, wish in self._wishes if since <= start]
        after = [wish for since, wish in self._wishes if since > start]
        return [before[-1] if before else replicas, *after]

    def _forget(self, now: float) -> None:
        start = now - max(self._rule.scale_up_after, self._rule.scale_down_after)
        while len(self._wishes) > 1 and self._wishes[1][0] <= start:
            self._wishes.popleft()

    def _bounded(self, count: int) -> int:
        return min(max(count, self._rule.min), self._rule.max)
