"""Ray's client: ``python -m tri_serve.fleet.ray.bridge --address HOST:PORT --socket PATH``.

A process of its own, since a client of Ray can be ended by Ray's death. Takes commands as the supervisor does (see
control.py) and passes them on to Serve and to the agents. What it has deployed stays when it ends.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ServeStatus

from tri_serve.errors import FleetError
from tri_serve.fleet.control import ControlServer, Progress
from tri_serve.fleet.ray.agents import Engine, Gateway
from tri_serve.fleet.ray.connection import connect, start_serve
from tri_serve.fleet.ray.nodes import check_nodes, lacking_room, living_nodes
from tri_serve.fleet.ray.removal import (
    agents_of,
    clear_applications,
    delete_applications,
    is_placed,
    leave_serve,
)

log = logging.getLogger("tri_serve.fleet.ray")

_CALLS_AT_ONCE = 1_000
"""Calls that an agent takes at once; most of them wait for news."""
_CALL_SECONDS = 150.0
"""Longer than any command of an agent may take; news are asked for with a bound of their own."""


_COMMANDS = (
    "address",
    "applications",
    "call",
    "check",
    "clear",
    "delete",
    "deploy",
    "leave",
    "nodes",
    "placed",
    "room",
)


class Bridge:
    """Serve, seen as a few commands."""

    def __init__(self) -> None:
        self._handles: dict[str, DeploymentHandle[Any]] = {}
        self._deploying = asyncio.Lock()
        self._asking: asyncio.Task[ServeStatus] | None = None

    async def deploy(self, request: Mapping[str, Any], _progress: Progress) -> Any:
        """Have an application ``name`` with one agent; True if it had to be made, and was not there already."""
        async with self._deploying:
            return await asyncio.to_thread(self._deploy, request)

    def _deploy(self, request: Mapping[str, Any]) -> bool:
        name: str = request["name"]
        start_serve()  # somebody may have shut it down; run_many would start it with proxies
        known = serve.status().applications.get(name)
        if known is not None and known.status == "DELETING":  # of a replica that has just gone
            serve.delete(name)  # waits for its end
        elif known is not None:
            self._handles[name] = serve.get_app_handle(name)
            return False
        deployment = Engine if request["kind"] == "engine" else Gateway
        needs = dict(request["needs"])
        options: dict[str, Any] = {"num_cpus": needs.pop("CPU", 0), "num_gpus": needs.pop("GPU", 0)}
        if needs:
            options["resources"] = needs
        application = deployment.options(
            num_replicas=1,
            max_ongoing_requests=_CALLS_AT_ONCE,
            graceful_shutdown_timeout_s=request["patience"],
            graceful_shutdown_wait_loop_s=0.1,
            health_check_period_s=5.0,
            ray_actor_options=options,
        ).bind(request["settings"], request["order"])
        handles = serve.run_many(
            [serve.RunTarget(application, name=name, route_prefix=None)],
            wait_for_ingress_deployment_creation=False,  # ``deployed`` waits for more
            wait_for_applications_running=False,
        )
        self._handles[name] = handles[0]
        return True

    def _deployed(self, name: str) -> DeploymentHandle[Any]:
        known = serve.status().applications.get(name)
        if known is None or known.status == "DELETING":
            raise FleetError(f"{name} is not deployed")
        return serve.get_app_handle(name)

    async def delete(self, request: Mapping[str, Any], _progress: Progress) -> Any:
        """Have an application no more; its agent gets the time to stop what it owns."""
        name: str = request["name"]
        self._handles.pop(name, None)
        async with self._deploying:
            if request.get("patience") is not None:
                await asyncio.to_thread(delete_applications, {name}, request["patience"])
            else:
                await asyncio.to_thread(lambda: serve.delete(name, _blocking=bool(request.get("wait"))))

    async def clear(self, request: Mapping[str, Any], progress: Progress) -> Any:
        """See ``clear_applications``."""
        await asyncio.to_thread(
            clear_applications,
            request["prefix"],
            request["patience"],
            progress,
            parts=request.get("parts"),
        )

    async def leave(self, _request: Mapping[str, Any], _progress: Progress) -> Any:
        """See ``leave_serve``."""
        return await asyncio.to_thread(leave_serve)

    async def address(self, _request: Mapping[str, Any], _progress: Progress) -> Any:
        """``HOST:PORT`` of the head."""
        return ray.get_runtime_context().gcs_address

    async def placed(self, request: Mapping[str, Any], _progress: Progress) -> Any:
        """Whether the agent of an application has a node."""
        agents = await asyncio.to_thread(agents_of, f"{request['name']}#")
        return any(map(is_placed, agents))

    async def room(self, request: Mapping[str, Any], _progress: Progress) -> Any:
        """Why no node has room for what an agent needs; None if one has."""
        return await asyncio.to_thread(lacking_room, request["name"], request["needs"])

    async def call(self, request: Mapping[str, Any], _progress: Progress) -> Any:
        """Call a method of an agent and give its answer."""
        handle = self._handles.get(request["name"])
        if handle is None:  # an earlier bridge may have deployed it
            handle = await asyncio.to_thread(self._deployed, request["name"])
        method = getattr(handle, request["method"])
        within = request.get("within", _CALL_SECONDS)
        try:
            return await asyncio.wait_for(method.remote(*request.get("arguments", ())), within)
        except TimeoutError as error:  # Serve keeps a call until there is an agent to take it
            if request.get("may_be_silent"):
                return None
            raise FleetError(f"its agent did not answer within {within:g} s") from error

    async def nodes(self, _request: Mapping[str, Any], _progress: Progress) -> Any:
        """The living nodes of the cluster."""
        return await asyncio.to_thread(living_nodes)

    async def check(self, request: Mapping[str, Any], progress: Progress) -> Any:
        """What each node lacks that the release needs there."""
        return await asyncio.to_thread(
            check_nodes, request["spec"], request["gateway_nodes"], request["occupied"], progress
        )

    async def applications(self, request: Mapping[str, Any], _progress: Progress) -> Any:
        """Serve's own word on applications whose names begin with ``prefix``."""
        # Every part that starts asks several times a second, while cores are short: one answer for all.
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(asyncio.to_thread(serve.status))
        status = await asyncio.shield(self._asking)
        found: dict[str, Any] = {}
        for name, application in status.applications.items():
            if name.startswith(request["prefix"]):
                messages = [d.message for d in application.deployments.values() if d.message]
                found[name] = {
                    "status": str(application.status.value),
                    "message": _last_line("\n".join([application.message, *messages])),
                }
        return found


def _last_line(text: str) -> str:
    """Of a traceback, what was raised."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no explanation"


def _one_line(error: Exception) -> str:
    return f"Ray: {type(error).__name__}: {_last_line(str(error))}"


def _told(command: Any) -> Any:
    """Ray's errors become ours, which the control socket can carry."""

    async def answer(request: Mapping[str, Any], progress: Progress) -> Any:
        try:
            return await command(request, progress)
        except RayActorError as error:
            raise FleetError("its Ray actor died; Ray Serve makes another") from error
        except (RayError, RayServeException, ConnectionError) as error:
            raise FleetError(_one_line(error)) from error
        except RuntimeError as error:  # what Serve raises when an application fails
            raise FleetError(_one_line(error)) from error

    return answer


async def run(path: Path) -> None:
    """Take commands until told to stop."""
    bridge = Bridge()
    control = ControlServer(path, {name: _told(getattr(bridge, name)) for name in _COMMANDS})
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    await control.start()
    await ending.wait()
    await control.close()
    # At once: what still waits for an agent's news has nobody to tell them to, and Ray's own leave-taking can hang
    # when its head is gone.
    os._exit(0)


def main() -> None:
    """Entry point; stdout and stderr are its log."""
    parser = argparse.ArgumentParser(prog="tri_serve.fleet.ray.bridge")
    parser.add_argument("--address", required=True, help="HOST:PORT of Ray's head, or auto")
    parser.add_argument("--socket", type=Path, required=True, help="UNIX socket to take commands on")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds for something to answer there")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        connect(arguments.address, arguments.patience)
    except FleetError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(1)
    asyncio.run(run(arguments.socket))


if __name__ == "__main__":
    main()
