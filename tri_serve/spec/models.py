"""The whole spec: what ``tri-serve.yaml`` says, typed."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from tri_serve.spec.engine import EngineSpec, ModelSpec
from tri_serve.spec.fields import SpecModel, about_key
from tri_serve.spec.fleet import FleetSpec
from tri_serve.spec.gateway import NODE, GatewaySpec


class Spec(SpecModel):
    """One model, one kind of engine, one fleet, one gateway."""

    model: ModelSpec
    engine: EngineSpec = EngineSpec()
    fleet: FleetSpec = FleetSpec()
    gateway: GatewaySpec = GatewaySpec()

    @model_validator(mode="after")
    def _node_of_a_cluster(self) -> Self:
        if self.gateway.host == NODE and self.fleet.target != "ray":
            raise about_key("gateway.host", f"{NODE} goes with the target ray alone; give an address")
        return self
