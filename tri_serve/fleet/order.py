"""What a replica's engines are made from: an order can travel to the node on which they are to run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from tri_serve.engine.engine import Engine
from tri_serve.fleet.prepare import ENGINE_HOST, Prepared, prepare
from tri_serve.fleet.replica import MadeEngine, MakeEngine
from tri_serve.fleet.state import StateModel
from tri_serve.launch.device import Device
from tri_serve.process.ports import free_port, port_is_free
from tri_serve.spec.models import Spec

Prepare = Callable[[Spec], Prepared]


class EngineOrder(StateModel):
    """One place in the fleet, and what is to run there. Holds the engine key: not to be logged."""

    spec: Spec
    engine_key: str = Field(repr=False)
    number: int
    """The place's number in the fleet, from 0."""
    host: str = ENGINE_HOST
    """Address that the engine listens on; ``node``: that of the node where it runs, for gateways elsewhere."""
    own_gpus: bool = True
    """Choose this place's GPUs among the machine's by its number; False: somebody else has assigned them, and
    the engine takes what it sees."""
    replicas_here: int = 1
    """Replicas that share this machine's cores."""
    again: int = 0
    """Counts the restarts that were asked for: another number, another engine."""


def engine_maker(
    order: EngineOrder, *, log: Path, node: str = "", prepare_spec: Prepare = prepare
) -> MakeEngine:
    """How engines of that order are made.

    Everything is looked up again for each engine: what is missing now may be there for the next one. ``node`` is
    this machine's address. An engine keeps its predecessor's port where it can: who knows the address may be out
    of reach when a new engine takes over.
    """

    async def make(name: str, on_change: Callable[[Any], None], earlier_port: int | None) -> MadeEngine:
        prepared = await asyncio.to_thread(prepare_spec, order.spec)
        engine_spec = order.spec.engine
        host = node if order.host == "node" else order.host
        kept = earlier_port is not None and port_is_free(host, earlier_port)
        port = earlier_port if kept and earlier_port is not None else free_port(host)
        gpus = prepared.gpus_of(order.number) if order.own_gpus else assigned_gpus(prepared.device)
        engine = Engine(
            prepared.launch(
                port=port,
                api_key=order.engine_key,
                host=host,
                gpus=gpus,
                replicas_here=order.replicas_here,
            ),
            name=name,
            log=log,
            served_name=order.spec.model.served_name,
            start_timeout=engine_spec.start_timeout,
            shutdown_timeout=engine_spec.shutdown_timeout,
            on_change=on_change,
        )
        return MadeEngine(engine, host, port, f"cuda:{','.join(gpus)}" if gpus else prepared.device)

    return make


def assigned_gpus(device: Device) -> tuple[str, ...] | None:
    """The GPUs that somebody else gave this process (Ray does so with CUDA_VISIBLE_DEVICES); None on the CPU."""
    ids = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return tuple(ids.split(",")) if device == "cuda" and ids else None
