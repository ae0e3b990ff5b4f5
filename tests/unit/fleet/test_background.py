"""Tasks that nobody awaits."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tri_serve.fleet.background import go_on


def test_a_failure_is_said_at_once_and_an_end_is_not(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise KeyError("gone")

    async def ends() -> None:
        """At once."""

    async def scenario() -> None:
        kept = [go_on(fails(), "follower"), go_on(ends(), "short"), go_on(asyncio.sleep(60), "long")]
        await asyncio.sleep(0)
        kept[2].cancel()
        await asyncio.sleep(0.01)
        assert [record.getMessage() for record in caplog.records] == [
            "the task 'follower' of this process failed: KeyError('gone')"
        ]
        await asyncio.gather(*kept, return_exceptions=True)

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
