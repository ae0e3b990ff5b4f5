"""What a supervisor is asked to run."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from tri_serve.errors import FleetError
from tri_serve.fleet.state import StateModel
from tri_serve.spec.models import Spec


class Desired(StateModel):
    """The spec, and the hashes of client keys that came from the environment of who asked."""

    spec: Spec
    environment_hashes: dict[str, str] = Field(default_factory=dict)


def read_desired(path: Path) -> Desired:
    """What stands in ``path``. Raises FleetError if it cannot be understood."""
    try:
        return Desired.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise FleetError(f"{path} does not say what to run: {error}") from error
