"""One process's side of the agreement about a run: it prepares, begins when told, and says what came of it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

import gevent
from pydantic import ValidationError

from tri_serve.errors import LoadBrokeOffError, TriServeError
from tri_serve.load.records import Record
from tri_serve.load.swarm.clocks import start_here
from tri_serve.load.swarm.order import RunOrder
from tri_serve.load.swarm.parts import Parts, build_parts
from tri_serve.load.swarm.share import Share

Reply = Callable[[str, dict[str, Any]], None]
"""Sends one of PREPARED, REFUSED, LIVE and DONE to the leader."""

PREPARE, GO, STOP = "tri_prepare", "tri_go", "tri_stop"
PREPARED, REFUSED, LIVE, DONE = "tri_prepared", "tri_refused", "tri_live", "tri_done"

_LIVE_SECONDS = 1.0


class Member:
    """Belongs to one process; a run at a time."""

    def __init__(
        self,
        reply: Reply,
        on_record: Callable[[Record], None],
        *,
        key: str | None,
        build: Callable[[RunOrder, str | None], Parts] = build_parts,
    ) -> None:
        self.share: Share | None = None
        self._run = ""
        self._reply = reply
        self._on_record = on_record
        self._key = key
        self._build = build

    def prepare(self, data: Mapping[str, Any]) -> None:
        """Make the prompts of a run, and say that it is done."""
        order = RunOrder.model_validate_json(data["order"])
        self._run = order.run
        self.share = None
        try:
            # In a thread, so that Locust's heartbeats go on while prompts are made.
            threads = gevent.get_hub().threadpool
            parts = threads.apply(self._build, (order, self._key))
            share = Share(order, parts, data["worker"], data["workers"], on_record=self._on_record)
        except (TriServeError, OSError, ValidationError) as error:
            hint, code = (
                getattr(error, "hint", None),
                getattr(error, "exit_code", LoadBrokeOffError.exit_code),
            )
            self._reply(REFUSED, {"run": order.run, "error": str(error), "hint": hint, "exit_code": code})
            return
        self.share = share
        # The prompts stay until the end: looking through them for garbage would hold up the loop.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        used = parts.workload
        told = {
            "run": order.run,
            "hash": used.hash,
            "remarks": list(used.remarks),
            "tokenizer": parts.tokenizer,
        }
        self._reply(PREPARED, told)

    def go(self, data: Mapping[str, Any]) -> None:
        """Begin at the agreed time; say once a second how it goes, and at the end what came of it."""
        share = self.share
        if share is None or share.order.run != data["run"] or share.started.is_set():
            return
        start = start_here(data)
        share.go(start, ahead=data["start"] - start)
        while not share.finished.wait(_LIVE_SECONDS):
            self._reply(LIVE, {"run": share.order.run, **share.live_message()})
        self._reply(LIVE, {"run": share.order.run, **share.live_message()})
        self._reply(DONE, {"run": share.order.run, **share.report()})

    def broke(self, error: str) -> None:
        """Something of ours failed where nothing may: the leader must not wait for it."""
        words = f"a process of the client broke off: {error}"
        self._reply(
            REFUSED,
            {"run": self._run, "error": words, "hint": None, "exit_code": LoadBrokeOffError.exit_code},
        )

    def stop(self) -> None:
        """End the run that is on, if one is."""
        if self.share is not None and self.share.started.is_set():
            self.share.stop()

    @property
    def busy(self) -> bool:
        """Whether requests are under way."""
        share = self.share
        return share is not None and share.started.is_set() and not share.finished.is_set()
