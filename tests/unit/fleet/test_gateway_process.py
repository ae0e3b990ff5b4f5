"""What becomes of a change of a gateway that is being stopped."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

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
