"""One worker process: an event loop that accepts on the shared socket and relays.

Told what to do by the first process over a socket pair; ends when that closes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import resource
import signal
import socket
import sys
from collections.abc import Collection, Iterator
from itertools import islice
from random import getrandbits
from typing import Any

import uvloop

from tri_serve.gateway import exchange as exchanges
from tri_serve.gateway.config import CONTROL_LINE_LIMIT, GatewayConfig, ReplicaAddress
from tri_serve.gateway.exchange import Ending, Exchange
from tri_serve.gateway.keys import ClientKeys
from tri_serve.gateway.ledger import DOUBT_SECONDS, Ledger, Replica, RosterItem
from tri_serve.gateway.listener import ClientConnection
from tri_serve.gateway.metrics import WorkerMetrics
from tri_serve.gateway.waiting import WaitingRoom

# Deadlines are checked this often, and at most this many connections between two turns of the loop (about a
# tenth of a microsecond each).
SWEEP_SECONDS = 0.5
SWEEP_SLICE = 1024
BACKLOG = 2_048
# What is still in write buffers when a drain ends gets this long to leave.
FLUSH_SECONDS = 2.0
# A thousand requests that fail at once are one doubt.
DOUBT_PAUSE_SECONDS = 0.02

log = logging.getLogger("tri_serve.gateway")


class Worker:
    """What every connection of this process shares."""

    def __init__(self, config: GatewayConfig, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.timeouts = config.timeouts
        self.limits = config.limits
        self.keys = ClientKeys(config.client_key_hashes)
        self.served_models = frozenset(config.served_models)
        self.has_engine_key = config.engine_key is not None
        self.ledger = Ledger(config.engine_key, peers=config.workers * config.gateways)
        self.metrics = WorkerMetrics()
        self.waiting = WaitingRoom(
            loop,
            self.ledger,
            self.metrics,
            seconds=self.timeouts.no_replica,
            # The other half stays for those who ask how the gateway is, and for answers that run.
            places=self.limits.connections // 2,
        )
        self.clients: set[ClientConnection] = set()
        self.exchanges: set[Exchange] = set()
        self.draining = False
        self.draining_is_over = False
        self._no_clients = asyncio.Event()
        self.loop_lag = 0.0
        self.doubted: set[str] = set()
        self.doubting = asyncio.Event()
        self._tie = getrandbits(16)  # workers that count alike would herd
        self._connecting: set[asyncio.Task[None]] = set()

    def next_tie(self) -> int:
        """Spreads requests over equally loaded replicas."""
        self._tie += 1
        return self._tie

    def take_roster(self, roster: Collection[RosterItem]) -> None:
        """The roster has news: what waits for a replica may have one now."""
        self.ledger.update(roster, self.loop.time())
        self.waiting.look()

    def connect(self, replica: Replica, exchange: Exchange) -> None:
        """Open a connection to ``replica`` for ``exchange``."""
        task = self.loop.create_task(exchanges.connect(self, replica, exchange))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def doubt(self, replica: Replica, reason: str) -> None:
        """``replica`` just failed: prefer others for a moment, and have the roster look at it."""
        if not reason.startswith("status_"):
            replica.doubted_until = self.loop.time() + DOUBT_SECONDS
        self.doubted.add(replica.name)
        self.doubting.set()

    def exchange_over(self, exchange: Exchange) -> None:
        """``exchange`` has ended, well or badly."""
        self.exchanges.discard(exchange)

    def client_gone(self, client: ClientConnection) -> None:
        """A client connection is closed."""
        self.clients.discard(client)
        if self.draining and not self.clients:
            self._no_clients.set()

    def report(self) -> dict[str, Any]:
        """Counts and gauges as JSON; resets the lag."""
        lag, self.loop_lag = self.loop_lag, 0.0
        return {
            "connections": len(self.clients),
            "in_flight": {replica.name: replica.in_flight for replica in self.ledger.replicas},
            "requests_in_flight": len(self.exchanges),
            "waiting": len(self._connecting) + len(self.waiting),
            "held": len(self.waiting),
            "loop_lag": lag,
            "metrics": self.metrics.snapshot(),
        }

    async def watch_deadlines(self) -> None:
        """Find connections whose time is up, drop idle engine connections, measure how late the loop is."""
        loop = self.loop
        while True:
            due = loop.time() + SWEEP_SECONDS
            await asyncio.sleep(SWEEP_SECONDS)
            now = loop.time()
            self.loop_lag = max(self.loop_lag, now - due)
            self.ledger.drop_idle(now)
            self.ledger.weigh(now)
            self.waiting.look()
            clients: Iterator[ClientConnection] = iter(list(self.clients))
            while part := list(islice(clients, SWEEP_SLICE)):
                for client in part:
                    if client.deadline <= now:
                        client.expired()
                await asyncio.sleep(0)

    def end_replica(self, name: str) -> dict[str, int]:
        """End everything that runs on a replica whose drain deadline has come; how many of which ending."""
        counts = dict.fromkeys(Ending, 0)
        for exchange in [exchange for exchange in self.exchanges if exchange.replica_name == name]:
            counts[exchange.replica_drained()] += 1
        return {ending.name.lower(): count for ending, count in counts.items()}

    async def drain(self, server: asyncio.Server, seconds: float) -> None:
        """Accept no more, let running answers end for up to ``seconds``, then end them with an error event."""
        self.draining = True
        server.close()
        for client in list(self.clients):
            client.drain()
        if self.clients and seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._no_clients.wait()
        self.draining_is_over = self.waiting.closed = True
        if self.exchanges:
            log.warning("drain deadline passed: ending %d running requests", len(self.exchanges))
        for client in list(self.clients):
            client.shut_down()
        if self.clients:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._no_clients.wait()


class Control:
    """The worker's end of the control channel: JSON lines."""

    def __init__(
        self,
        worker: Worker,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        orphan_seconds: float,
    ) -> None:
        self.stop: asyncio.Future[float] = worker.loop.create_future()
        """Done when the worker has to stop: with the seconds that running requests have to end."""
        self._orphan_seconds = orphan_seconds
        self._worker = worker
        self._reader = reader
        self._writer = writer

    def send(self, message: dict[str, Any]) -> None:
        """Queue one message."""
        self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def run(self) -> None:
        """Obey, while draining too, until the first process is gone."""
        with contextlib.suppress(ConnectionError):  # it died with something of ours unread
            await self._obey()
        if not self.stop.done():
            log.warning("the gateway's first process is gone: ending within %g s", self._orphan_seconds)
            self._stop_within(self._orphan_seconds)

    async def _obey(self) -> None:
        worker = self._worker
        while line := await self._reader.readline():
            message = json.loads(line)
            if "roster" in message:
                roster = [
                    RosterItem(ReplicaAddress.model_validate(item["address"]), item["ready"], item["load"])
                    for item in message["roster"]
                ]
                worker.take_roster(roster)
            if "report" in message:
                self.send({"answer": message["report"], **worker.report()})
            if "end" in message:
                self.send({"answer": message["ask"], **worker.end_replica(message["end"])})
            if "drain" in message:
                self._stop_within(float(message["drain"]))

    def _stop_within(self, seconds: float) -> None:
        if not self.stop.done():
            self.stop.set_result(seconds)

    async def tell_doubts(self) -> None:
        """Ask the roster to look at replicas that failed here, soon after it happened."""
        worker = self._worker
        while True:
            await worker.doubting.wait()
            worker.doubting.clear()
            self.send({"doubted": sorted(worker.doubted)})
            worker.doubted.clear()
            await asyncio.sleep(DOUBT_PAUSE_SECONDS)


async def serve(listen_fd: int, control_fd: int) -> None:
    """Run one worker until the first process says to drain, or is gone."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_unix_connection(
        sock=socket.socket(fileno=control_fd), limit=CONTROL_LINE_LIMIT
    )
    config = GatewayConfig.model_validate_json(await reader.readline())
    worker = Worker(config, loop)
    control = Control(worker, reader, writer, config.orphan_drain)
    listener = socket.socket(fileno=listen_fd)
    server = await loop.create_server(lambda: ClientConnection(worker), sock=listener, backlog=BACKLOG)
    obeying = loop.create_task(control.run())
    background = [loop.create_task(worker.watch_deadlines()), loop.create_task(control.tell_doubts())]
    control.send({"up": True})
    running: list[asyncio.Future[Any]] = [control.stop, obeying, *background]
    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in (obeying, *background):
        if task.done():  # else it failed: without its deadlines a worker is worse than a fresh one
            task.result()
    await worker.drain(server, await control.stop)
    background.append(obeying)
    control.send(worker.report())
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
    writer.close()


def raise_file_limit() -> None:
    """Two descriptors a stream: take what the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Entry of a worker process; started by the gateway's first process alone."""
    parser = argparse.ArgumentParser(prog="tri-serve-gateway-worker")
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s worker[%(process)d] %(message)s",
    )
    raise_file_limit()
    # SIGINT and SIGTERM go to the first process, which tells the workers what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    uvloop.run(serve(arguments.listen_fd, arguments.control_fd))


if __name__ == "__main__":
    main()
