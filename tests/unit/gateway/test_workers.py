"""What the first process keeps for a worker that does not listen."""

from __future__ import annotations

import asyncio
import json
import socket

from tri_serve.gateway.workers import UNREAD_BYTES, WorkerProcess


def test_a_worker_that_reads_nothing_costs_little_and_catches_up() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        _, writer = await asyncio.open_unix_connection(sock=ours)
        worker = WorkerProcess(0)
        worker.writer = writer
        for number in range(5_000):
            worker.tell_roster([{"number": number, "filler": "x" * 1_000}])
        assert worker.behind
        assert writer.transport.get_write_buffer_size() < UNREAD_BYTES + 2_000
        reader, its_writer = await asyncio.open_unix_connection(sock=theirs)
        while writer.transport.get_write_buffer_size():
            await reader.readline()
        worker.tell_roster([{"number": "last"}])
        assert not worker.behind
        async with asyncio.timeout(5):
            while json.loads(await reader.readline())["roster"][0]["number"] != "last":
                pass
        writer.close()
        its_writer.close()

    asyncio.run(scenario())
