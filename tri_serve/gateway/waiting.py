"""Requests for which no replica is ready: they wait a little for one, rather than being refused at once.

A killed engine or a gateway that has just begun costs a client some seconds then, and no error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Literal

from tri_serve.observe import names

if TYPE_CHECKING:
    from tri_serve.gateway.exchange import Exchange
    from tri_serve.gateway.ledger import Ledger
    from tri_serve.gateway.metrics import WorkerMetrics

# Sent, or refused, between two turns of the loop: some 50 µs each.
SLICE = 128

Outcome = Literal["sent", "refused", "left"]
"""What becomes of one that waits: a replica has it, it was refused, its client left."""


class WaitingRoom:
    """What waits in one worker, in the order in which it came."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, ledger: Ledger, metrics: WorkerMetrics, seconds: float
    ) -> None:
        self._loop = loop
        self._ledger = ledger
        self._metrics = metrics
        self._seconds = seconds
        self._deadlines: dict[Exchange, float] = {}
        self.closed = False
        """The worker has no more time: nothing may wait."""

    def __len__(self) -> int:
        return len(self._deadlines)

    def take(self, exchange: Exchange) -> bool:
        """Have ``exchange`` wait; False if there is nothing to wait for, or no time."""
        if self.closed or self._seconds == 0 or not self._ledger.may_be_ready_soon:
            return False
        self._deadlines[exchange] = self._loop.time() + self._seconds
        self._metrics.count(names.HOLDS)
        return True

    def leave(self, exchange: Exchange, outcome: Outcome) -> None:
        """``exchange`` waits no more; nothing if it did not."""
        deadline = self._deadlines.pop(exchange, None)
        if deadline is not None:
            waited = self._loop.time() - deadline + self._seconds
            self._metrics.holds[outcome].observe(waited)

    def look(self) -> None:
        """Send what can be sent now, and refuse what has waited for its time, or in vain."""
        if self._deadlines:
            self._look_at(iter(list(self._deadlines)))

    def _look_at(self, exchanges: Iterator[Exchange]) -> None:
        now = self._loop.time()
        in_vain = not self._ledger.may_be_ready_soon
        part = list(islice(exchanges, SLICE))
        for exchange in part:
            deadline = self._deadlines.get(exchange)  # its client may have left between two slices
            if deadline is not None and not exchange.ask_again() and (in_vain or deadline <= now):
                exchange.waited_in_vain()
        if len(part) == SLICE:
            self._loop.call_soon(self._look_at, exchanges)
