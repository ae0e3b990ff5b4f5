"""What a process needs for a run, made from its order: the client and the workload."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tri_serve.load.records import Record
from tri_serve.load.swarm.endpoint import tokenize
from tri_serve.load.swarm.order import RunOrder
from tri_serve.load.wire.answer import Answer
from tri_serve.load.wire.client import Client
from tri_serve.load.wire.target import Target, parse_target
from tri_serve.load.workload.build import build_workload
from tri_serve.load.workload.items import Item, Session
from tri_serve.load.workload.tokenizer import Overhead, load_tokenizer

PREFLIGHT_SILENCE = 20.0
"""Seconds that a question before the load waits for its answer: an idle server gives it within some milliseconds,
and nobody is to wait for one that hangs as long as a request of the load would."""


class Asks(Protocol):
    """Sends a request and fills its record: wire/client.py."""

    def ask(self, item: Item, record: Record) -> Answer: ...
    def close(self) -> None: ...


class Workload(Protocol):
    """What is asked, by number: workload/build.py."""

    @property
    def hash(self) -> str: ...
    @property
    def remarks(self) -> tuple[str, ...]: ...
    def item(self, index: int) -> Item: ...
    def session(self, index: int) -> Session | None: ...


@dataclass(frozen=True)
class Parts:
    """The means of one process."""

    client: Asks
    workload: Workload
    tokenizer: str = ""
    """What counted the tokens."""


def target_of(order: RunOrder) -> Target:
    """Where the requests go."""
    return parse_target(order.url, ca_file=order.ca_file, insecure=order.insecure)


def client_of(order: RunOrder, key: str | None, *, most_silence: float = math.inf) -> Client:
    """A client as the order wants it; one for each process and thread."""
    return Client(
        target_of(order),
        order.model,
        key if order.send_key else None,
        connect_timeout=order.scenario.connect_timeout,
        silence=min(order.scenario.silence, most_silence),
        token_ids=order.token_ids,
    )


def build_parts(order: RunOrder, key: str | None) -> Parts:
    """Make them: the prompts are written here, which takes seconds. Raises UsageError for what cannot be.

    To be called in a thread of its own: what it asks the server goes through a client that ends with it.
    """
    asking = client_of(order, key, most_silence=PREFLIGHT_SILENCE)

    def ask(body: Mapping[str, Any]) -> Mapping[str, Any]:
        return tokenize(asking, order.model, body)

    source = Path(order.tokenizer) if order.tokenizer else ask if order.counts else None
    tokenizer = load_tokenizer(source)
    overhead = Overhead(*order.overhead) if order.overhead else None
    try:
        workload = build_workload(
            order.scenario,
            order.scenario_folder,
            tokenizer,
            overhead,
            context=order.context,
            nonce=order.nonce,
        )
        workload.prepare()
    finally:
        asking.close()
    return Parts(client_of(order, key), workload, tokenizer.name)
