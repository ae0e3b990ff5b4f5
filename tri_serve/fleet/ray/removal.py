"""Taking what is ours off a cluster, and nothing else.

Also a program, for a release whose supervisor is dead:
``python -m tri_serve.fleet.ray.removal --address HOST:PORT --prefix PREFIX``.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Set
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from tri_serve.errors import FleetError
from tri_serve.fleet.ray.connection import connect, in_one_line
from tri_serve.process.guard import PR_SET_PDEATHSIG, prctl

_POLL = 0.2
_ANSWER_SECONDS = 5.0
_REPLICA_ACTOR = "SERVE_REPLICA::"
_SERVE_NAMESPACE = "serve"


def clear_applications(
    prefix: str, patience: float, progress: Callable[[str], None], *, parts: Collection[str] | None = None
) -> None:
    """Delete applications whose names are ``prefix`` and a part of the release (none given: whichever).

    Gateways first, so that running answers end, then engines. Their agents stop in order for up to ``patience``
    seconds, and are killed then. Raises FleetError if some are there even after that.
    """
    found = {name.removeprefix(prefix) for name in _applications() if name.startswith(prefix)}
    chosen = found if parts is None else found & set(parts)
    gateways = {part for part in chosen if part.startswith("gateway")}
    for group, what in ((gateways, "gateway"), (chosen - gateways, "engine")):
        if not group:
            continue
        progress(f"cluster: stopping {len(group)} {what}{'s' * (len(group) != 1)}")
        delete_applications({prefix + part for part in group}, patience)


def delete_applications(names: Set[str], patience: float) -> None:
    """Delete them, and wait until they are gone. Raises FleetError if some are there after ``patience`` seconds."""
    for name in names:
        serve.delete(name, _blocking=False)
    _until_gone(names, patience)


def _until_gone(names: Set[str], patience: float) -> None:
    deadline = time.monotonic() + patience
    killed = False
    while left := names & _applications():
        if time.monotonic() > deadline:
            if killed:
                raise FleetError(f"Ray Serve does not delete {', '.join(sorted(left))}")
            for name in left:
                kill_agents(f"{name}#")
            killed = True
            deadline += 10.0
        for name in left:  # Serve would wait for an agent without a node as long as for one that drains
            kill_agents(f"{name}#", unplaced=True)
        time.sleep(_POLL)


def _applications() -> set[str]:
    try:
        return set(serve.status().applications)
    except RayServeException:  # Serve does not run
        return set()


def kill_agents(prefix: str, *, unplaced: bool = False) -> int:
    """Kill the agents of applications whose names begin with ``prefix``: their programs end with them.

    ``unplaced``: only those that wait for a node.
    """
    killed = 0
    for actor in agents_of(prefix):
        if unplaced and is_placed(actor):
            continue
        try:
            ray.kill(ray.get_actor(actor["Name"], namespace=_SERVE_NAMESPACE), no_restart=True)
        except ValueError:  # it has just ended
            continue
        killed += 1
    return killed


def agents_of(prefix: str) -> list[dict[str, Any]]:
    """Living actors of Serve's applications whose names begin with ``prefix``, as Ray's table has them."""
    return [
        actor
        for actor in ray._private.state.actors().values()
        if actor["Name"].startswith(_REPLICA_ACTOR + prefix) and actor["State"] != "DEAD"
    ]


def is_placed(actor: dict[str, Any]) -> bool:
    """Whether an actor has a node; it may still be starting there."""
    return bool(actor["Address"]["IPAddress"])


def leave_serve() -> bool:
    """Shut Serve down if nobody uses it: no application, and no proxy. Whether it was."""
    try:
        status = serve.status()
    except RayServeException:
        return False
    if status.applications or status.proxies:
        return False
    serve.shutdown()  # type: ignore[no-untyped-call]
    return True


def main() -> None:
    """Entry point: progress on stdout, an error as the last line of stderr."""
    parser = argparse.ArgumentParser(prog="tri_serve.fleet.ray.removal")
    parser.add_argument("--address", required=True, help="HOST:PORT of Ray's head")
    parser.add_argument("--prefix", required=True, help="of the names of the applications")
    parser.add_argument("--patience", type=float, required=True, help="seconds for a part to stop")
    arguments = parser.parse_args()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # whoever started it waits for it; else nobody does
    try:
        connect(arguments.address, _ANSWER_SECONDS)
        clear_applications(arguments.prefix, arguments.patience, lambda line: print(line, flush=True))
        leave_serve()
    except (FleetError, RayError, RayServeException, RuntimeError) as error:
        print(in_one_line(str(error)), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)  # Ray's own leave-taking can hang when its head is gone


if __name__ == "__main__":
    main()
