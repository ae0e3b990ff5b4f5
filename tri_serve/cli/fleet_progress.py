"""A fleet on its way as steps: a line for Ray, for each gateway and each replica, with how long it took before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tri_serve.cli.fleet_views import plural, replica_facts
from tri_serve.fleet.state import ReplicaPhase, write_private

if TYPE_CHECKING:
    from tri_serve.cli.progress import Steps
    from tri_serve.fleet.release import ReleasePaths
    from tri_serve.fleet.state import FleetState, GatewayState, RayState, ReplicaState

_UNDER_WAY = (ReplicaPhase.STARTING, ReplicaPhase.LOADING, ReplicaPhase.WARMING, ReplicaPhase.DRAINING)


def show_fleet(view: Steps, state: FleetState, earlier: Mapping[str, float]) -> None:
    """Bring the steps to the state. ``earlier``: seconds of the replicas' last starts that are known from files."""
    if state.ray is not None:
        show_ray(view, state.ray)
    for gateway in state.gateways:
        show_gateway(view, gateway, state.url)
    for replica in state.replicas:
        show_replica(view, replica, earlier.get(replica.name))


def show_ray(view: Steps, ray: RayState) -> None:
    """The Ray that supervises the fleet."""
    if ray.phase == "running":
        nodes = "" if ray.private else f", {plural(ray.nodes, 'node')}"
        if ray.doing:
            view.show("ray", f"{ray.address}{nodes}: {ray.doing}")
        else:
            view.show("ray", f"{ray.address or 'running'}{nodes}", "done")
    elif ray.phase == "starting":
        view.show("ray", "starting" if ray.private else "connecting")
    else:
        view.show("ray", ray.error or ray.phase, "failed")


def show_gateway(view: Steps, gateway: GatewayState, url: str) -> None:
    """One gateway."""
    # Of several, each says its own; until then only the one of this machine is known.
    known = gateway.url or (url if "@" not in gateway.name else str(gateway.phase))
    if gateway.phase == "running":
        view.show(gateway.name, known, "done")
    elif gateway.phase == "starting":
        view.show(gateway.name, known)
    else:
        view.show(gateway.name, gateway.error or gateway.phase, "failed")


def show_replica(view: Steps, replica: ReplicaState, earlier: float | None = None) -> None:
    """One replica: its phase and the seconds in it, or what it is now that it is ready."""
    if replica.phase is ReplicaPhase.READY:
        view.show(replica.name, ", ".join(["ready", *replica_facts(replica)]), "done")
    elif replica.phase in _UNDER_WAY:
        expected = replica.earlier_seconds or earlier
        if replica.phase is ReplicaPhase.DRAINING:
            expected = None
        view.show(replica.name, str(replica.phase), since=replica.since, expected=expected)
    elif replica.phase is ReplicaPhase.STOPPED and not replica.error:
        view.show(replica.name, "stopped", "left")
    else:
        error = (replica.error or str(replica.phase)).removeprefix(f"{replica.name}: ")
        view.show(replica.name, error, "failed")


def start_seconds(state: FleetState) -> dict[str, float]:
    """How long the start of each replica that is ready took."""
    return {
        replica.name: round(sum(replica.phase_seconds.values()), 1)
        for replica in state.replicas
        if replica.phase is ReplicaPhase.READY and replica.phase_seconds
    }


def earlier_starts(paths: ReleasePaths) -> dict[str, float]:
    """Seconds that the replicas' last starts took, as ``keep_starts`` wrote them; empty if none is known."""
    try:
        found = json.loads(paths.timings.read_text())["replicas"]
        return {str(name): float(seconds) for name, seconds in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def keep_starts(paths: ReleasePaths, state: FleetState) -> None:
    """Write them for the next start; replicas that did not start now keep what is known of them."""
    known = earlier_starts(paths) | start_seconds(state)
    write_private(paths.timings, json.dumps({"replicas": known}))
