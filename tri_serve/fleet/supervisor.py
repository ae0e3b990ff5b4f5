"""The process that a release's fleet lives under: ``python -m tri_serve.fleet.supervisor --state DIR``.

It holds the listening socket, runs gateway and engines, takes commands on its control socket, and takes
everything with it when it ends, however it ends (see process/guard.py). SIGTERM and SIGINT stop it in order.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tri_serve.errors import FleetError, TriServeError
from tri_serve.fleet.changes import Changes
from tri_serve.fleet.control import ControlServer, Progress
from tri_serve.fleet.desired import Desired, read_desired
from tri_serve.fleet.fleet import Fleet
from tri_serve.fleet.notify import notify
from tri_serve.fleet.own_children import OwnChildren
from tri_serve.fleet.parts import Runtime
from tri_serve.fleet.release import ReleasePaths, exclusive
from tri_serve.fleet.state import FleetPhase, read_state
from tri_serve.process import logs
from tri_serve.process.child import child_token
from tri_serve.process.strays import MARKER, sweep
from tri_serve.spec.models import Spec

log = logging.getLogger(__name__)


def runtime_of(spec: Spec, paths: ReleasePaths) -> Runtime:
    """What the spec wants its parts to run in. Raises MissingExtraError if Ray is wanted and not installed."""
    if spec.fleet.supervisor == "process":
        return OwnChildren(paths)
    from tri_serve.fleet.ray.cluster import ClusterRuntime
    from tri_serve.fleet.ray.runtime import RayRuntime

    return RayRuntime(spec, paths) if spec.fleet.target == "local" else ClusterRuntime(spec, paths)


class Supervisor:
    """One life of a release's fleet."""

    def __init__(self, paths: ReleasePaths, desired: Desired, *, token: str) -> None:
        self.fleet = Fleet(paths, desired, runtime_of(desired.spec, paths), token=token)
        self._paths = paths
        self._ending = asyncio.Event()
        self._timeout: float | None = None

    async def run(self, *, on_ready: Callable[[Fleet], None] | None = None) -> None:
        """From start to end. Raises what kept the fleet from starting, when nothing of it is left."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        control = ControlServer(
            self._paths.control_socket,
            {
                "status": self._status,
                "applied": self._applied,
                "apply": self._apply,
                "restart": self._restart,
                "stop": self._stop,
            },
        )
        await control.start()
        try:
            await self._until_told_to_end(on_ready)
        finally:
            notify("STOPPING=1")
            await self.fleet.stop(self._timeout, log.info)
            await control.close()

    async def _until_told_to_end(self, on_ready: Callable[[Fleet], None] | None) -> None:
        ending = asyncio.create_task(self._ending.wait(), name="ending")
        starting = asyncio.create_task(self._start(), name="starting")
        try:
            await asyncio.wait([ending, starting], return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                return
            starting.result()
            notify("READY=1")
            if on_ready is not None:
                on_ready(self.fleet)
            await ending
        except TriServeError as error:
            log.error("not started: %s", error)  # noqa: TRY400 -- the traceback of an expected error says nothing
            self.fleet.fail(error)
            raise
        finally:
            for task in (ending, starting):
                task.cancel()
            await asyncio.gather(ending, starting, return_exceptions=True)

    async def _start(self) -> None:
        await self.fleet.start()
        await self.fleet.wait_started()

    async def _status(self, _request: Mapping[str, Any], _progress: Progress) -> Any:
        return (await self.fleet.state()).model_dump(mode="json")

    async def _applied(self, _request: Mapping[str, Any], _progress: Progress) -> Any:
        return self.fleet.applied.model_dump_json()

    async def _apply(self, request: Mapping[str, Any], progress: Progress) -> Any:
        if self.fleet.phase not in (FleetPhase.RUNNING, FleetPhase.CHANGING):
            raise FleetError(f"release {self._paths.release} is {self.fleet.phase}; wait until it runs")
        desired = Desired.model_validate_json(request["desired"])
        if request.get("preview"):
            changes: Changes = self.fleet.changes_to(desired)
            changes.check(self._paths.release)
        else:
            changes = await self.fleet.apply(desired, progress)
        return {
            "changed": bool(changes),
            "differences": list(changes.differences),
            "actions": list(changes.actions),
            "engines": changes.engines,
            "running": self.fleet.spec.model_dump_json(),
        }

    async def _restart(self, request: Mapping[str, Any], progress: Progress) -> Any:
        await self.fleet.restart(request.get("name"), progress)
        return {}

    async def _stop(self, request: Mapping[str, Any], progress: Progress) -> Any:
        self._timeout = request.get("timeout")
        self._ending.set()
        await self.fleet.stop(self._timeout, progress)
        return {}


async def supervise(
    paths: ReleasePaths, desired: Desired, *, on_ready: Callable[[Fleet], None] | None = None
) -> None:
    """Run a release until it is told to stop. Raises what kept it from starting.

    What an earlier life left behind is swept first.
    """
    with exclusive(paths, "supervisor", f"another supervisor of release {paths.release} is running"):
        await sweep_earlier_life(paths)
        paths.create()
        token = child_token(os.environ)
        os.environ[MARKER] = token  # children extend it: see process/strays.py
        supervisor = Supervisor(paths, desired, token=token)
        supervisor.fleet.write_state()  # the token has to be on disk before anything carries it
        try:
            await supervisor.run(on_ready=on_ready)
        except TriServeError:
            supervisor.fleet.phase = FleetPhase.FAILED
            supervisor.fleet.write_state()
            raise
        finally:
            paths.discard_sockets()
        paths.state.unlink(missing_ok=True)


async def sweep_earlier_life(paths: ReleasePaths) -> tuple[int, ...]:
    """End what a dead supervisor of this release left behind, and forget its state; returns the pids."""
    try:
        state = read_state(paths.state)
    except FleetError as error:
        log.warning("%s", error)
        state = None
    swept: tuple[int, ...] = ()
    if state is not None and not state.supervisor.alive:
        swept = await sweep(state.supervisor.token)
        if swept:
            log.warning("ended what an earlier life had left behind: %s", ", ".join(map(str, swept)))
    paths.state.unlink(missing_ok=True)
    paths.discard_sockets()
    return swept


def configure_logging(file: Path | None = None) -> None:
    """Log to stderr, and to ``file``. A log that cannot be written is no reason to stop serving."""
    logging.raiseExceptions = False
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if file is not None:
        os.close(logs.open_log(file))  # made private; the handler would not
        handlers.append(logging.FileHandler(file, encoding="utf-8"))
    logging.basicConfig(
        level=logging.INFO, handlers=handlers, format="%(asctime)s %(levelname)s %(message)s", force=True
    )


def main() -> None:
    """The detached supervisor's entry point; its stdout and stderr are its log."""
    parser = argparse.ArgumentParser(prog="tri_serve.fleet.supervisor")
    parser.add_argument("--state", type=Path, required=True, help="folder of the release")
    paths = ReleasePaths(parser.parse_args().state)
    configure_logging()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal that started it may close
    try:
        asyncio.run(supervise(paths, read_desired(paths.desired)))
    except TriServeError as error:
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
