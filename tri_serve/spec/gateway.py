"""The ``gateway`` part of the spec: where clients connect, and the bounds that keep it standing."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, Field

from tri_serve.spec.fields import Port, Seconds, SecondsOrZero, SpecModel

NODE = "node"
"""In place of an address: the one by which the cluster knows the node that the gateway runs on."""


def _listen_address(value: str) -> str:
    if value in ("localhost", NODE):
        return value
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise ValueError("not an IP address or localhost; 0.0.0.0 listens on every interface") from None
    return value


ListenAddress = Annotated[
    str, Field(examples=["127.0.0.1", "::1", "localhost", NODE]), AfterValidator(_listen_address)
]
"""An IP address, ``localhost`` or ``node``: a name that resolves to several addresses would be a guess."""


class GatewayTimeouts(SpecModel):
    """Seconds. Each bounds one way in which a peer can be silent."""

    head: Seconds = 10.0
    """From the first byte of a request to the end of its head."""
    body: Seconds = 60.0
    """From the end of the head to the end of the body."""
    keep_alive: Seconds = 75.0
    """An idle client connection is closed after this; nginx's default, longer than common client pools."""
    connect: Seconds = 2.0
    """Until an engine accepts a connection. Engines are near: two seconds is a dead one."""
    no_replica: SecondsOrZero = 5.0
    """A request for which no replica is ready waits for one so long, then it is refused (503); 0 refuses at once. A
    few seconds hide a gateway that begins and an engine that is back soon; clients that wait for longer are better
    told. Whoever is refused waits no less: ``retry-after`` says 5 s. It is a request's time in all, however often
    its replicas fail, and at most half of ``limits.connections`` wait."""
    first_byte: Seconds = 600.0
    """From the end of the request to the engine's first byte: queue and prefill included."""
    silence: Seconds = 120.0
    """Between two events of a running stream."""
    client_stall: Seconds = 120.0
    """A client that takes nothing for this long while data waits for it is cut off."""
    drain: Seconds = 60.0
    """A stopping gateway lets running requests finish for this long, then ends them with an error event."""


class GatewayLimits(SpecModel):
    """Bytes and counts. Past them a client gets a clear refusal, not a slow server."""

    head_bytes: Annotated[int, Field(ge=1_024, le=1_048_576)] = 32_768
    """Request line and headers together; 431 beyond."""
    body_bytes: Annotated[int, Field(ge=1_024, le=268_435_456)] = 1_048_576
    """Request body; 413 beyond. 1 MiB is 128 bytes for each of 8,192 tokens."""
    connections: Annotated[int, Field(ge=1, le=1_000_000)] = 8_192
    """Open client connections per worker; 503 beyond."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Replicas tried for one request while nothing has been sent to the client."""


class GatewaySpec(SpecModel):
    """The gateway: the router process that clients talk to; on a cluster, each of them."""

    host: ListenAddress = "127.0.0.1"
    """Address to listen on. Anything but loopback needs client keys, or ``allow_unauthenticated``. ``node``, for
    the target ``ray`` alone: each gateway listens on the address by which the cluster knows its node."""
    port: Port = 8000
    """vLLM's own default port, so that clients need no change."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that share the listening socket. One relays some 40,000 events a second."""
    keys_file: str | None = None
    """File of hashed client keys (made by ``tri-serve keys create``); TRI_SERVE_API_KEYS adds to it."""
    allow_unauthenticated: bool = False
    """Say that anyone who reaches a non-loopback address may use the model."""
    admin_port: Port | None = None
    """Loopback port for metrics; none takes a free one, which ``tri-serve status`` shows."""
    timeouts: GatewayTimeouts = GatewayTimeouts()
    limits: GatewayLimits = GatewayLimits()

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == NODE:  # what that is, the cluster says; clients elsewhere are what it is for
            return False
        return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
