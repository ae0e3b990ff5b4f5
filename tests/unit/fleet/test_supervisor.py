"""What a supervisor answers to a command."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tri_serve.fleet import detached
from tri_serve.fleet.control import ControlServer
from tri_serve.fleet.desired import Desired
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.supervisor import Supervisor
from tri_serve.spec.models import Spec


def test_it_tells_the_spec_and_the_keys_that_it_applied_last(tmp_path: Path) -> None:
    async def scenario() -> None:
        spec = Spec.model_validate(
            {"model": {"source": "s", "served_name": "t"}, "fleet": {"supervisor": "process"}}
        )
        paths = ReleasePaths(tmp_path / "tri")
        paths.create()
        first = Desired(spec=spec, environment_hashes={"env-1": "a" * 64})
        supervisor = Supervisor(paths, first, token="token")
        control = ControlServer(paths.control_socket, {"applied": supervisor._applied})
        await control.start()
        assert await asyncio.to_thread(detached.applied, paths) == first
        supervisor.fleet.environment_hashes = {
            "env-1": "a" * 64,
            "env-2": "b" * 64,
        }  # as an `up` has it changed
        later = await asyncio.to_thread(detached.applied, paths)
        assert later.environment_hashes == supervisor.fleet.environment_hashes
        await control.close()

    asyncio.run(scenario())
