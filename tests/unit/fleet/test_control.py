"""The control socket, and what becomes of a command whose asker left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tri_serve.fleet import control
from tri_serve.fleet.control import ControlServer, Progress


def test_a_command_goes_on_without_its_asker_and_nothing_is_written_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(control, "HEARTBEAT", 0.01)
    begun, told, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def long(_request: Mapping[str, Any], progress: Progress) -> None:
        begun.set()
        await told.wait()
        progress("nobody hears this")
        ended.set()

    async def scenario() -> None:
        server = ControlServer(tmp_path / "control.sock", {"long": long})
        await server.start()
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
        writer.write(b'{"command": "long"}\n')
        await begun.wait()
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.3)  # thirty beats; asyncio warns from the fifth on
        told.set()
        await asyncio.wait_for(ended.wait(), 5)
        await asyncio.sleep(0.05)
        await server.close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert caplog.messages == []
