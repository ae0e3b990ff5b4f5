"""A private Ray's head: ``ray start --head --block`` with what one node on one machine needs, and no more.

``ray start`` has no option for the rest: its client server (a way in for other machines) comes with grpc, the
dashboard's process runs even without a dashboard, the dashboard's agent gathers figures that nobody reads, another
agent sets up runtime environments that nobody asks for, and the command imports Ray Serve and all of Ray's other
commands before it begins. Without them a start takes less of the processor and of memory, and fewer ports are open.
What is called or replaced here is private to Ray 2.60.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray._private import node, services, utils
from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray._private.parameter import RayParams
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray._private.resource_isolation_config import ResourceIsolationConfig
from ray._raylet import persist_port  # type: ignore[attr-defined]

from tri_serve.fleet.ray import stand_in, start_worker, worker_source

_LOOK_SECONDS = 1.0
_AGENTS = ("--dashboard_agent_command=", "--runtime_env_agent_command=")
_NO_SERVICE = -1
"""In the place of a port: what Ray's own agent says of a service that it does not have."""


class _Head(node.Node):
    """The processes of one node: gcs_server and raylet; and what the raylet's workers are forked from."""

    def start_api_server(self, **_options: object) -> None:
        """The dashboard's process: not wanted."""
        self._webui_url = ""

    def start_raylet(self, *arguments: Any, **more: Any) -> None:
        """The raylet, which waits for ports that its agents would announce."""
        for name in ("metrics_agent", "metrics_export", "dashboard_agent_listen", "runtime_env_agent"):
            persist_port(self._session_dir, self._node_id, f"{name}_port", _NO_SERVICE)
        super().start_raylet(*arguments, **more)
        (raylet,) = self.all_processes[PROCESS_TYPE_RAYLET]
        worker_source.spawn(Path(str(self.temp_dir)), raylet.process.pid)


def _without_agents(start: Any) -> Any:
    program = subprocess.list2cmdline([sys.executable, "-I", "-S", stand_in.__file__])

    def start_process(command: Sequence[str], process_type: str, **more: Any) -> Any:
        if process_type == PROCESS_TYPE_RAYLET:
            command = [
                f"{word.partition('=')[0]}={program}" if word.startswith(_AGENTS) else word
                for word in command
            ]
        return start(command, process_type, **more)

    return start_process


def start(*, host: str, port: int, folder: Path, cpus: int, gpus: int, object_store: int) -> _Head:
    """A head whose processes run, and end with this one."""
    vars(services)["start_ray_process"] = _without_agents(services.start_ray_process)
    ensure_token_if_auth_enabled(None, create_token_if_missing=False)
    head = _Head(
        RayParams(
            node_ip_address=host,
            node_name=host,
            gcs_server_port=port,
            temp_dir=str(folder),
            num_cpus=cpus,
            num_gpus=gpus,
            labels={},
            object_store_memory=object_store,
            include_dashboard=False,
            include_log_monitor=False,  # type: ignore[arg-type]
            no_monitor=True,  # no node is added or taken away
            resource_isolation_config=ResourceIsolationConfig(),
            setup_worker_path=start_worker.__file__,
        ),
        head=True,
    )
    utils.write_ray_address(head.address, str(folder))
    return head


def until_dead(head: _Head) -> str:
    """Until one of its processes has ended; which."""
    while True:
        time.sleep(_LOOK_SECONDS)
        for name, process in head.dead_processes():  # type: ignore[no-untyped-call]
            return f"Ray's {name} ended with exit code {process.returncode}"


def main() -> None:
    """Entry point: in the foreground until a process of Ray dies; the others are killed then."""
    parser = argparse.ArgumentParser(prog="tri_serve.fleet.ray.start_head")
    parser.add_argument("--host", required=True, help="address to listen on")
    parser.add_argument("--port", type=int, required=True, help="of gcs_server")
    parser.add_argument("--folder", type=Path, required=True, help="where Ray keeps its session")
    parser.add_argument("--cpus", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--object-store", type=int, required=True, help="bytes")
    arguments = parser.parse_args()
    head = start(**vars(arguments))
    print(until_dead(head), file=sys.stderr, flush=True)
    head.kill_all_processes(check_alive=False, allow_graceful=False)
    os._exit(1)


if __name__ == "__main__":
    main()
