"""What a release that runs on a cluster remembers of it, beyond the life of its supervisor.

While the record is there, something of the release may run on the cluster: whoever starts it again takes that over,
and whoever stops it has to clear the cluster first.
"""

from __future__ import annotations

import re
import secrets

from pydantic import Field, ValidationError

from tri_serve.errors import FleetError
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.state import StateModel, write_private

_PREFIX = "tri-serve"
_IDENTITY = re.compile(r"[0-9a-f]{8}")


class ClusterRecord(StateModel):
    """The same for every life of the release, until it is stopped."""

    address: str
    """``HOST:PORT`` of the cluster's head."""
    identity: str
    """Tells this release from another of the same name, made on another machine or by another user."""
    engine_key: str = Field(repr=False)
    """What the gateways present to the engines: with another one, every engine would have to be replaced."""
    patience: float = 120.0
    """Seconds in which a part of it has stopped, at the latest."""


def application_prefix(paths: ReleasePaths, identity: str) -> str:
    """What the names of all Serve applications of the release begin with."""
    return f"{_PREFIX}-{paths.release}-{identity}-"


def read_record(paths: ReleasePaths) -> ClusterRecord | None:
    """The record; None if nothing of the release runs on a cluster. Raises FleetError if it is damaged."""
    try:
        return ClusterRecord.model_validate_json(paths.cluster.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise FleetError(
            f"{paths.cluster} is damaged, and said what of {paths.release} runs on a cluster",
            hint="`serve status` there shows what is left; tri-serve down --forget removes the file",
        ) from error


def keep_record(paths: ReleasePaths, address: str, patience: float) -> ClusterRecord:
    """The record for a release that is about to start on the cluster at ``address``.

    Raises FleetError if it may still run on another one.
    """
    known = read_record(paths)
    if known is not None and known.address != address:
        raise FleetError(
            f"release {paths.release} was started on the cluster at {known.address}, and not stopped there",
            hint=f"tri-serve down -r {paths.release} stops it; with --forget if that cluster is no more",
        )
    record = ClusterRecord(
        address=address,
        identity=known.identity if known else _identity(paths),
        engine_key=known.engine_key if known else secrets.token_urlsafe(32),
        patience=patience,
    )
    write_private(paths.cluster, record.model_dump_json() + "\n")
    return record


def _identity(paths: ReleasePaths) -> str:
    """Chosen once for a release, so that its folders on the nodes are the same after each `down`."""
    try:
        known = paths.identity.read_text().strip()
    except OSError:
        known = ""
    if not _IDENTITY.fullmatch(known):
        known = secrets.token_hex(4)
        write_private(paths.identity, known + "\n")
    return known


def forget_record(paths: ReleasePaths) -> None:
    """Nothing of the release runs on a cluster any more."""
    paths.cluster.unlink(missing_ok=True)
