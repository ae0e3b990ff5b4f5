"""What becomes of a change of a gateway that is being stopped."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from tri_serve.errors import GatewayStartError
from tri_serve.fleet.gateway_process import GatewayProcess
from tri_serve.fleet.release import ReleasePaths
from tri_serve.gateway.config import GatewayConfig


@pytest.mark.parametrize("moves", [False, True])
def test_no_process_is_put_in_place_of_one_that_is_being_stopped(tmp_path: Path, moves: bool) -> None:
    async def scenario() -> None:
        config = GatewayConfig(release="r", served_models=("tri",), admin_socket=tmp_path / "admin")
        here, there = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        gateway = GatewayProcess(ReleasePaths(tmp_path), here, config, on_change=lambda: None)
        await gateway.stop()
        with pytest.raises(GatewayStartError, match="stopped"):
            await gateway.replace(config, there if moves else None)
        assert here.fileno() < 0
        assert (there.fileno() < 0) is moves
        there.close()

    asyncio.run(scenario())


class PretendProcess:
    """A gateway process with requests on one replica."""

    def __init__(self, running: int) -> None:
        self.running = running
        self.may_end = asyncio.Event()

    async def ask(self, method: str, target: str, body: object = None) -> Any:
        if target == "/end":
            self.running = 0
        return {"replicas": [{"name": "replica-0", "in_flight": self.running}]}

    async def end(self) -> None:
        await self.may_end.wait()


def test_what_a_replaced_process_still_has_running_counts_and_is_ended_at_a_deadline(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = GatewayConfig(release="r", served_models=("tri",), admin_socket=tmp_path / "admin")
        listener = socket.create_server(("127.0.0.1", 0))
        gateway = GatewayProcess(ReleasePaths(tmp_path), listener, config, on_change=lambda: None)
        old, new = PretendProcess(3), PretendProcess(1)
        gateway._current = new  # type: ignore[assignment]
        ending = asyncio.create_task(gateway._end_former(old))  # type: ignore[arg-type]
        await asyncio.sleep(0)

        async def running() -> int:
            status = await gateway.status()
            assert status is not None
            count: int = status["replicas"][0]["in_flight"]
            return count

        assert await running() == 4
        await gateway.end_streams("replica-0")
        assert (old.running, new.running) == (0, 0)
        new.running = 1
        old.may_end.set()
        await ending
        assert await running() == 1
        listener.close()

    asyncio.run(scenario())


def test_a_socket_that_could_not_be_moved_is_opened_again_until_a_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 1

    async def start(_self: GatewayProcess) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise GatewayStartError("it does not start")
        return Running()

    class Running(PretendProcess):
        started = 0.0

        def __init__(self) -> None:
            super().__init__(0)
            self.child = self
            self.pid = 1

        async def wait_program(self) -> int:
            await self.may_end.wait()
            return 0

        async def end(self) -> None:
            self.may_end.set()

    async def scenario() -> None:
        nonlocal failures
        monkeypatch.setattr(GatewayProcess, "_start", start)
        config = GatewayConfig(release="r", served_models=("tri",), admin_socket=tmp_path / "admin")
        here, there, again = (socket.create_server(("127.0.0.1", 0)) for _ in range(3))
        gateway = GatewayProcess(ReleasePaths(tmp_path), here, config, on_change=lambda: None)
        failures = 0
        gateway.begin()
        async with asyncio.timeout(5):
            while gateway.phase != "running":  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await gateway.close_listener()
            assert gateway.phase == "starting"
            failures = 2
            with pytest.raises(GatewayStartError, match="does not start"):
                await gateway.replace(config, there)
            gateway.reopen(again)
            while gateway.phase != "running":  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            assert gateway.listener is again
            assert failures == -1
            await gateway.stop()

    asyncio.run(scenario())
