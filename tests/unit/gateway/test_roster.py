"""How the roster looks whether a replica answers, and what it keeps of one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tri_serve.gateway.config import ReplicaAddress
from tri_serve.gateway.probes import health_status
from tri_serve.gateway.roster import SETTLE_SECONDS, TIMEOUTS_UNTIL_DOWN, Roster


@pytest.mark.parametrize("answer", [b"x" * 200_000, b"\xff\xfe\r\n", b"HTTP/1.1 ok\r\n", b""])
def test_whatever_is_no_answer_is_an_os_error(answer: bytes) -> None:
    async def ask() -> None:
        async def reply(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            writer.close()

        async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
            await health_status(*server.sockets[0].getsockname())

    with pytest.raises(OSError, match=r"not HTTP|reset"):
        asyncio.run(ask())


def test_a_change_of_draining_loses_nothing_that_is_known() -> None:
    async def scenario() -> None:
        told: list[bool] = []
        roster = Roster(lambda: told.append(roster.any_ready))
        address = ReplicaAddress(name="a", host="127.0.0.1", port=9)
        roster.replace([address])
        (entry,) = roster.entries
        entry.healthy = True
        for draining in (True, False):
            roster.replace([address.model_copy(update={"draining": draining})])
            assert roster.entries == [entry]
            assert entry.healthy
            assert entry.address.draining is draining
        assert told == [False, False, True]
        moved = address.model_copy(update={"port": 10})
        roster.replace([moved])
        assert roster.entries != [entry]
        assert all(watcher.cancelling() for watcher in entry.watchers)
        await roster.close()

    asyncio.run(scenario())


def test_a_doubt_that_comes_during_a_look_makes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        looks = 0

        async def health_of(_host: str, _port: int) -> int:
            nonlocal looks
            looks += 1
            if looks == 1:
                roster.look_at(["a"])  # it died behind this answer
            return 200

        async def no_page(_host: str, _port: int) -> None:
            return None

        monkeypatch.setattr("tri_serve.gateway.roster.health_status", health_of)
        monkeypatch.setattr("tri_serve.gateway.roster.metrics_page", no_page)
        roster = Roster(lambda: None)
        roster.replace([ReplicaAddress(name="a", host="127.0.0.1", port=9)])
        await asyncio.sleep(0.3)
        assert looks == 2
        await roster.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("answers", [True, False])
def test_a_replica_whose_health_is_late_stays_as_long_as_it_answers_about_its_load(
    monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    async def scenario() -> None:
        looks = 0

        async def health_of(_host: str, _port: int) -> int:
            nonlocal looks
            looks += 1
            if looks > 1:
                await asyncio.sleep(60)
            return 200

        async def page_of(_host: str, _port: int) -> None:
            if not answers:
                await asyncio.sleep(60)

        monkeypatch.setattr("tri_serve.gateway.roster.health_status", health_of)
        monkeypatch.setattr("tri_serve.gateway.roster.metrics_page", page_of)
        for seconds, name in (
            (0.05, "PROBE_TIMEOUT_SECONDS"),
            (0.01, "PROBE_SECONDS"),
            (0.01, "PROBE_DOWN_SECONDS"),
            (0.02, "SCRAPE_SECONDS"),
            (0.01, "SCRAPE_PAUSE_SECONDS"),
        ):
            monkeypatch.setattr(f"tri_serve.gateway.roster.{name}", seconds)
        roster = Roster(lambda: None)
        roster.replace([ReplicaAddress(name="a", host="127.0.0.1", port=9)])
        await asyncio.sleep(0.6)
        assert looks > TIMEOUTS_UNTIL_DOWN + 1
        assert roster.any_ready is answers
        await roster.close()

    asyncio.run(scenario())


def ready_as_told(
    monkeypatch: pytest.MonkeyPatch, answers: Callable[[int, float], Awaitable[int]], seconds: float
) -> list[tuple[float, list[int]]]:
    """When the workers were told that others are ready than before, and the ports of those, for three replicas.

    ``answers`` is each one's /health, by port and time since the start.
    """
    told: list[tuple[float, list[int]]] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()

        def changed() -> None:
            ready = [item["address"]["port"] for item in roster.as_json() if item["ready"]]
            assert roster.any_ready is bool(ready)
            if ready != (told[-1][1] if told else []):
                told.append((loop.time() - begun, ready))

        async def health_of(_host: str, port: int) -> int:
            return await answers(port, loop.time() - begun)

        async def no_page(_host: str, _port: int) -> None:
            return None

        monkeypatch.setattr("tri_serve.gateway.roster.health_status", health_of)
        monkeypatch.setattr("tri_serve.gateway.roster.metrics_page", no_page)
        roster = Roster(changed)
        roster.replace([ReplicaAddress(name=f"r{port}", host="127.0.0.1", port=port) for port in (1, 2, 3)])
        await asyncio.sleep(seconds)
        await roster.close()

    asyncio.run(scenario())
    return told


def test_replicas_that_come_together_are_told_of_together(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers(port: int, _now: float) -> int:
        await asyncio.sleep(0.03 * (port - 1))
        return 200

    ((_, ready),) = ready_as_told(monkeypatch, answers, 0.5)
    assert ready == [1, 2, 3]


def test_replicas_that_come_back_together_are_told_of_together(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers(port: int, now: float) -> int:
        if now < 0.4:  # so that they are not looked at at the same time
            await asyncio.sleep(0.05 * port)
            return 503
        return 200

    ((_, ready),) = ready_as_told(monkeypatch, answers, 1.2)
    assert ready == [1, 2, 3]


@pytest.mark.parametrize("silent", [True, False])
def test_one_that_is_ready_does_not_wait_long_for_others(
    monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    async def answers(port: int, _now: float) -> int:
        if port == 1:
            return 200
        if silent:
            await asyncio.sleep(60)
        return 503

    ((when, ready),) = ready_as_told(monkeypatch, answers, 0.6)
    assert ready == [1]
    assert when < (SETTLE_SECONDS + 0.2 if silent else SETTLE_SECONDS - 0.05)
