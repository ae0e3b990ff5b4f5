"""What the supervisor and Ray's side say to each other, as JSON."""

from __future__ import annotations

import hashlib

from pydantic import Field

from tri_serve.fleet.order import EngineOrder
from tri_serve.fleet.state import ErrorState, GatewayState, ReplicaState, StateModel
from tri_serve.gateway.config import GatewayConfig, ReplicaAddress


class AgentSettings(StateModel):
    """What an agent needs to know of its release."""

    release: str
    identity: str = ""
    """Tells releases of the same name apart on a cluster."""
    name: str
    root: str | None = None
    """The release's folder; None: the usual place on the agent's node."""
    listener_socket: str | None = None
    """UNIX socket on which the supervisor hands the gateway's listening socket out; None: the agent binds it."""
    keeps_threads: bool = False
    """OMP_NUM_THREADS is the user's; otherwise Ray set it, for programs that are not ours."""


class GatewayOrder(StateModel):
    """What a gateway is to be. Holds the engine key: not to be logged."""

    config: GatewayConfig = Field(repr=False)
    host: str
    port: int
    socket_number: int = 0
    """Counts the listening sockets: another number, and the agent takes the new one."""


class KeptOrder(StateModel):
    """What a gateway's agent leaves on its node for the next: Serve would make that with the first order of all."""

    given: str
    """Digest of the order that the agent was made with."""
    order: GatewayOrder
    """The one that it followed last."""


class EngineNews(StateModel):
    """An engine agent's answer."""

    version: int
    instance: str
    """Of the agent; another one has begun anew."""
    digest: str
    """Of the order that it follows."""
    again: int = 0
    """As the order has it."""
    state: ReplicaState
    error: ErrorState | None = None


class GatewayNews(StateModel):
    """A gateway agent's answer."""

    version: int
    instance: str
    digest: str
    """Of the order that it follows; empty while it has no socket to listen on."""
    roster_digest: str
    state: GatewayState
    error: ErrorState | None = None


def digest(order: EngineOrder | GatewayOrder) -> str:
    """Two orders are the same if their digests are."""
    return hashlib.sha256(order.model_dump_json().encode()).hexdigest()[:16]


def roster_digest(roster: tuple[ReplicaAddress, ...]) -> str:
    """Two rosters are the same if their digests are."""
    text = "\n".join(address.model_dump_json() for address in roster)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
