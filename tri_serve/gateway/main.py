"""The gateway's first process: holds the roster and the admin API, and keeps the workers running.

It carries no client traffic. The listening socket is bound by whoever starts it and comes as a descriptor, so
that connections wait in its queue, rather than being refused, while a gateway is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from tri_serve.errors import GatewayStartError, MissingExtraError, ResourceError, TriServeError
from tri_serve.gateway.admin import HEAD_LIMIT, AdminCall, AdminReply, AdminServer, json_reply
from tri_serve.gateway.config import GatewayConfig, ReplicaAddress
from tri_serve.gateway.exposition import GatewayCollector, exposition
from tri_serve.gateway.roster import Roster
from tri_serve.gateway.workers import Workers

log = logging.getLogger("tri_serve.gateway")

_REPLICAS = TypeAdapter(tuple[ReplicaAddress, ...])
METRICS_MEDIA = "text/plain; version=0.0.4; charset=utf-8"


class Gateway:
    """The first process's parts and what its admin API does with them."""

    def __init__(self, config: GatewayConfig, listen_fd: int) -> None:
        self._config = config
        self._stop = asyncio.Event()
        self.roster = Roster(self._roster_changed)
        self.workers = Workers(config, listen_fd, self.roster)
        self._collector = GatewayCollector(self.workers, self.roster)
        self.draining = False
        self.admin_port = 0

    def _roster_changed(self) -> None:
        self.workers.tell_roster()

    async def run(self) -> None:
        """Serve until asked to stop, then drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self.roster.replace(self._config.replicas)
        async with contextlib.AsyncExitStack() as stack:
            await self._open_admin(stack)
            self.workers.start()
            log.info("gateway %s: admin on 127.0.0.1:%d", self._config.release, self.admin_port)
            await self._stop.wait()
            self.draining = True
            log.info("draining for up to %g s", self._config.timeouts.drain)
            await self.workers.drain(self._config.timeouts.drain)
            await self.roster.close()

    async def _open_admin(self, stack: contextlib.AsyncExitStack) -> None:
        reading: Mapping[str, AdminCall] = {"GET /metrics": self._metrics, "GET /status": self._status}
        everything: Mapping[str, AdminCall] = {
            **reading,
            "GET /roster": self._get_roster,
            "PUT /roster": self._put_roster,
            "POST /end": self._end,
            "POST /drain": self._drain,
        }
        path = self._config.admin_socket
        path.unlink(missing_ok=True)
        try:
            unix = await asyncio.start_unix_server(AdminServer(everything).serve, path, limit=HEAD_LIMIT)
            path.chmod(0o600)
            tcp = await asyncio.start_server(
                AdminServer(reading).serve, "127.0.0.1", self._config.admin_port, limit=HEAD_LIMIT
            )
        except OSError as error:
            raise ResourceError(f"the admin API cannot listen: {error}") from error
        stack.callback(tcp.close)
        stack.callback(path.unlink, missing_ok=True)
        stack.callback(unix.close)
        self.admin_port = tcp.sockets[0].getsockname()[1]

    # -- the admin API

    async def _metrics(self, _: bytes) -> AdminReply:
        await self.workers.fresh_reports()
        return AdminReply(200, exposition(self._collector), METRICS_MEDIA)

    async def _status(self, _: bytes) -> AdminReply:
        await self.workers.fresh_reports()
        return json_reply(self.status())

    def status(self) -> dict[str, Any]:
        """What runs, as JSON."""
        processes = self.workers.processes
        now = asyncio.get_running_loop().time()
        in_flight: dict[str, int] = {}
        for process in processes:
            for name, count in process.last_report.get("in_flight", {}).items():
                in_flight[name] = in_flight.get(name, 0) + count
        return {
            "ready": self.roster.any_ready and not self.draining and any(p.up for p in processes),
            "draining": self.draining,
            "pid": os.getpid(),
            "admin_port": self.admin_port,
            "worker_restarts": self.workers.restarts,
            "waiting": sum(process.last_report.get("waiting", 0) for process in processes),
            "held": sum(process.last_report.get("held", 0) for process in processes),
            "workers": [
                {
                    "pid": process.pid,
                    "up": process.up,
                    "silent_seconds": round(process.silent_seconds(now), 1),
                    "connections": process.last_report.get("connections", 0),
                    "in_flight": process.last_report.get("requests_in_flight", 0),
                }
                for process in processes
            ],
            "replicas": [
                {
                    **entry.address.model_dump(),
                    "healthy": entry.healthy,
                    "reason": entry.reason,
                    "in_flight": in_flight.get(entry.address.name, 0),
                    "load": entry.load.as_json(now) if entry.load is not None else None,
                }
                for entry in self.roster.entries
            ],
        }

    async def _get_roster(self, _: bytes) -> AdminReply:
        return json_reply({"replicas": self.status()["replicas"]})

    async def _put_roster(self, body: bytes) -> AdminReply:
        try:
            document = json.loads(body)
            addresses = _REPLICAS.validate_json(json.dumps(document["replicas"]))
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            return json_reply({"error": f"not a roster: {error}"}, 400)
        if len({address.name for address in addresses}) != len(addresses):
            return json_reply({"error": "not a roster: names must be unique"}, 400)
        self.roster.replace(addresses)
        return json_reply({"replicas": len(addresses)})

    async def _end(self, body: bytes) -> AdminReply:
        try:
            name = json.loads(body)["replica"]
        except (ValueError, KeyError, TypeError) as error:
            return json_reply({"error": f"no replica is named: {error}"}, 400)
        if not isinstance(name, str):
            return json_reply({"error": "'replica' must be a name"}, 400)
        # One that has left the roster may still have requests.
        return json_reply(await self.workers.end_replica(name))

    async def _drain(self, _: bytes) -> AdminReply:
        self._stop.set()
        return json_reply({"draining": True})


def read_config(path: Path) -> GatewayConfig:
    """The configuration file. Raises GatewayStartError when it cannot be read or is wrong."""
    try:
        return GatewayConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise GatewayStartError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise GatewayStartError(f"{path}: {where or 'file'}: {first['msg']}") from error


def check_listener(descriptor: int) -> None:
    """Raises GatewayStartError if ``descriptor`` is no listening stream socket."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as listener:
            listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise GatewayStartError(f"--listen-fd {descriptor} is no socket: {error.strerror}") from error
    if not listening:
        raise GatewayStartError(f"--listen-fd {descriptor} does not listen")


@click.command()
@click.option(
    "--config",
    "config_file",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON file with the gateway's configuration; holds keys: mode 0600.",
)
@click.option("--listen-fd", required=True, type=int, help="Descriptor of the bound, listening socket.")
def command(config_file: Path, listen_fd: int) -> None:
    """Run one gateway on a listening socket that was bound by the caller."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s gateway[%(process)d] %(message)s",
    )
    try:
        import httptools  # noqa: F401
        import orjson  # noqa: F401
        import uvloop  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("gateway", "the gateway") from error
    config = read_config(config_file)
    check_listener(listen_fd)
    os.set_inheritable(listen_fd, True)

    async def run() -> None:
        await Gateway(config, listen_fd).run()

    asyncio.run(run())


def main() -> None:
    """Entry of ``tri-serve-gateway``: errors in one line, with their exit codes."""
    try:
        command.main(standalone_mode=False)
    except TriServeError as error:
        click.echo(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
