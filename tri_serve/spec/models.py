"""The whole spec: what ``tri-serve.yaml`` says, typed."""

from __future__ import annotations

from tri_serve.spec.engine import EngineSpec, ModelSpec
from tri_serve.spec.fields import SpecModel
from tri_serve.spec.fleet import FleetSpec
from tri_serve.spec.gateway import GatewaySpec


class Spec(SpecModel):
    """One model, one kind of engine, one fleet, one gateway."""

    model: ModelSpec
    engine: EngineSpec = EngineSpec()
    fleet: FleetSpec = FleetSpec()
    gateway: GatewaySpec = GatewaySpec()
