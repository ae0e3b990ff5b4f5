"""The ``fleet`` part of the spec: how many engines, where they run, and who watches them."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from tri_serve.spec.fields import SecondsOrZero, SpecModel, about_key

MOST_REPLICAS = 64

_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})")


class Autoscaling(SpecModel):
    """In place of a number: the fleet follows its load between two bounds."""

    min: Annotated[int, Field(ge=1, le=MOST_REPLICAS)] = 1
    """Replicas that are always there, and that a fleet starts with. An engine takes from half a minute to many
    minutes to start, so none at all is not offered."""
    max: Annotated[int, Field(ge=1, le=MOST_REPLICAS)]
    """Replicas under full load; memory or GPUs for all of them are checked before the fleet starts."""
    target: Annotated[float, Field(gt=0, le=65_536, allow_inf_nan=False)] = 16.0
    """Requests per replica, waiting and running, that the fleet aims at. 16: a GPU decodes that many at nearly
    the speed of one, since each step reads all weights anyway; lower it where each answer's speed counts."""
    scale_up_after: SecondsOrZero = 10.0
    """Seconds that a higher load must last before replicas are added. 10: shorter bursts are over before an
    engine could be ready."""
    scale_down_after: SecondsOrZero = 300.0
    """Seconds that a lower load must last before replicas are drained. 300: Kubernetes' default; stopping an
    engine too early costs its whole start."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min > self.max:
            raise about_key("min", f"min {self.min} is more than max {self.max}")
        return self


def _cluster_address(value: str) -> str:
    if value == "auto":
        return value
    if "://" in value:
        raise ValueError("takes HOST:PORT of the cluster's GCS, or auto; Ray Client addresses are not taken")
    match = _ADDRESS.fullmatch(value)
    if match is None or not 1 <= int(match["port"]) <= 65_535:
        raise ValueError("takes HOST:PORT, or auto for the cluster that runs on this machine")
    return value


def _each_once(nodes: tuple[str, ...]) -> tuple[str, ...]:
    twice = next((node for node in nodes if nodes.count(node) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} stands twice; a node runs one gateway")
    return nodes


class RaySpec(SpecModel):
    """Your Ray cluster; for the target ``ray`` alone."""

    address: (
        Annotated[str, Field(examples=["10.0.0.1:6379", "auto"]), AfterValidator(_cluster_address)] | None
    ) = None
    """Where the cluster is: HOST:PORT of its head node, or ``auto`` for the one that runs on this machine.
    Never guessed, since a machine may run a Ray that is not meant."""
    gateway_nodes: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AfterValidator(_each_once)] = ()
    """Addresses or names of the nodes that run a gateway; none named means every node."""


def _form_of_replicas(value: object) -> str:
    return "[bounds]" if isinstance(value, (dict, Autoscaling)) else "[number]"


# A plain union would report what is wrong with a value once for each of its forms.
Replicas = Annotated[
    Annotated[int, Field(ge=1, le=MOST_REPLICAS), Tag("[number]")] | Annotated[Autoscaling, Tag("[bounds]")],
    Discriminator(_form_of_replicas),
]


class FleetSpec(SpecModel):
    """How many engines, where, and what watches over them."""

    target: Literal["local", "ray"] = "local"
    """Where the fleet runs: ``local``, this machine; ``ray``, the nodes of your own Ray cluster."""
    supervisor: Literal["ray", "process"] = "ray"
    """What starts, watches and replaces engines and gateway. ``ray``: a private Ray (on the target ``ray``:
    yours), the same way on one machine as on many; ``process``: one plain process, which needs some 900 MiB
    less memory."""
    replicas: Replicas = 1
    """Engines behind the gateway: a number, or bounds between which the fleet follows its load."""
    ray: RaySpec = RaySpec()

    @property
    def initial_replicas(self) -> int:
        """Engines that the fleet starts with."""
        return self.replicas.min if isinstance(self.replicas, Autoscaling) else self.replicas

    @property
    def most_replicas(self) -> int:
        """Engines that the fleet may come to run."""
        return self.replicas.max if isinstance(self.replicas, Autoscaling) else self.replicas

    @property
    def autoscaling(self) -> Autoscaling | None:
        """The rule by which the number of engines follows the load, if it does."""
        return self.replicas if isinstance(self.replicas, Autoscaling) else None

    @model_validator(mode="after")
    def _supervisor_of_the_target(self) -> Self:
        if self.target == "ray":
            if self.supervisor != "ray":
                raise about_key("supervisor", "the target ray needs the supervisor ray")
            if self.ray.address is None:
                raise about_key(
                    "ray.address",
                    "the target ray needs the cluster's address: HOST:PORT of its head node, or auto (--address)",
                )
            return self
        for name in ("address", "gateway_nodes"):
            if getattr(self.ray, name):
                raise about_key(
                    f"ray.{name}", "goes with the target ray alone; set fleet.target: ray, or leave it out"
                )
        return self
