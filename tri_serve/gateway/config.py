"""What a gateway process is told when it starts: one JSON file, readable by its owner alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tri_serve.spec.fields import SpecModel
from tri_serve.spec.gateway import GatewayLimits, GatewayTimeouts

CONTROL_LINE_LIMIT = 8 * 1024 * 1024
"""Bytes of one line between first process and worker: a roster of thousands of replicas, or a report."""


class ReplicaAddress(SpecModel):
    """One engine, as the roster's source names it."""

    name: Annotated[str, Field(max_length=128, pattern=r"^[!-~]+$")]
    """The replica's name in the fleet; unique in a roster. One word of ASCII: it stands in answers' heads."""
    host: str
    """An IP address: name look-ups do not belong on the hot path."""
    port: Annotated[int, Field(ge=1, le=65_535)]
    draining: bool = False
    """No new work goes there; what runs there goes on."""

    @property
    def identity(self) -> tuple[str, str, int]:
        """What makes it another replica when it changes: name, host and port."""
        return self.name, self.host, self.port


class GatewayConfig(SpecModel):
    """Everything that one gateway process needs to know. Holds secrets: keep the file at mode 0600."""

    release: str
    served_models: tuple[str, ...]
    """Names that clients may ask for; anything else is 404 as OpenAI does it."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    gateways: Annotated[int, Field(ge=1, le=10_000)] = 1
    """How many gateways with as many workers share these replicas: how far engines' reports of their load are
    taken for what other workers do."""
    worker_silence: Annotated[float, Field(gt=0)] = 30.0
    """Seconds without a report after which a worker is taken for stuck, ended and replaced. A sound one reports
    every second; one that is short of a processor may take some."""
    timeouts: GatewayTimeouts = GatewayTimeouts()
    limits: GatewayLimits = GatewayLimits()
    admin_socket: Path
    """UNIX socket of the control API (roster, drain, status, metrics)."""
    admin_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """Loopback TCP port of the read-only admin API (metrics, status); 0 takes a free one."""
    client_key_hashes: Mapping[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(
        default_factory=dict
    )
    """Name of a client key → SHA-256 of the key in hex. Empty: every client is let in."""
    orphan_drain: Annotated[float, Field(ge=0)] = 0.0
    """Seconds in which the workers of a first process that died let running requests finish, while a successor
    takes the new ones; then each is ended by an error event. Whoever starts the gateway must let them live for
    a little longer than this."""
    engine_key: str | None = None
    """What the gateway presents to the engines as a bearer token."""
    replicas: tuple[ReplicaAddress, ...] = ()
    """The roster at the start."""
