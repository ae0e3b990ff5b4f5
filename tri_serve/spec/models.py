"""The whole spec: what ``tri-serve.yaml`` says, typed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tri_serve.spec.engine import EngineSpec, ModelSpec
from tri_serve.spec.fields import SpecModel
from tri_serve.spec.gateway import GatewaySpec


class FleetSpec(SpecModel):
    """How many engines, and where."""

    target: Literal["local"] = "local"
    """Where the fleet runs: this machine."""
    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    """Engines behind the gateway."""


class Spec(SpecModel):
    """One model, one kind of engine, one fleet, one gateway."""

    model: ModelSpec
    engine: EngineSpec = EngineSpec()
    fleet: FleetSpec = FleetSpec()
    gateway: GatewaySpec = GatewaySpec()
