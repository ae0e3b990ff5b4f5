"""Requests for which no replica is ready: they wait a little for one, rather than being refused at once.

A killed engine or a gateway that has just begun costs a client some seconds then, and no error. The time is bounded
for each request in all, however often it waits, and so is how many wait: each takes up a client connection.
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
        self,
        loop: asyncio.AbstractEventLoop,
        ledger: Ledger,
        metrics: WorkerMetrics,
        *,
        seconds: float,
        places: int,
    ) -> None:
        self._loop = loop
        self._ledger = ledger
        self._metrics = metrics
        self._seconds = seconds
        self._places = places
        self._since: dict[Exchange, float] = {}
        self.closed = False
        """The worker has no more time: nothing may wait."""

    def __len__(self) -> int:
        return len(self._since)

    def take(self, exchange: Exchange) -> bool:
        """Have ``exchange`` wait; False if there is nothing to wait for, no time left, or no place."""
        if self.closed or exchange.waited >= self._seconds or len(self._since) >= self._places:
            return False
        if not self._ledger.may_be_ready_soon:
            return False
        self._since[exchange] = self._loop.time()
        self._metrics.count(names.HOLDS)
        return True

    def leave(self, exchange: Exchange, outcome: Outcome) -> None:
        """``exchange`` waits no more; nothing if it did not."""
        since = self._since.pop(exchange, None)
        if since is not None:
            waited = self._loop.time() - since
            exchange.waited += waited
            self._metrics.holds[outcome].observe(waited)

    def look(self) -> None:
        """Send what can be sent now, and refuse what has waited for its time, or in vain."""
        if self._since:
            self._look_at(iter(list(self._since)))

    def _look_at(self, exchanges: Iterator[Exchange]) -> None:
        now = self._loop.time()
        in_vain = not self._ledger.may_be_ready_soon
        part = list(islice(exchanges, SLICE))
        for exchange in part:
            since = self._since.get(exchange)
            if since is None or exchange.ask_again():  # without: its client has left between two slices
                continue
            if in_vain or now - since + exchange.waited >= self._seconds:
                exchange.waited_in_vain()
        if len(part) == SLICE:
            self._loop.call_soon(self._look_at, exchanges)
