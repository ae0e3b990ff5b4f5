"""More and fewer replicas, and other ones, under load: no request fails, no stream is cut."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from benchmarks.faults.prompts import Ask, mock_answer
from benchmarks.faults.streams import Answer, Outcome, Verdict, classify
from benchmarks.faults.traffic import Load
from tri_serve.checkpoint.tiny.pairs import pairs
from tri_serve.fleet.detached import live_state
from tri_serve.fleet.release import ReleasePaths
from tri_serve.fleet.state import FleetState, ReplicaPhase

Wait = Callable[..., Any]

QUESTION = pairs()[0].question
FLAGS = "--itl-ms 15"
"""The longest answers of a ``Load`` take 2.4 s, most of them 0.6 s."""
WORDS = 400
"""Of an answer that takes 6 s: on a busy machine, too, all have begun before one ends."""


@pytest.fixture(scope="module")
def fleet(shared: Any) -> Iterator[Any]:
    """Two replicas, for the tests of this file in its order; the last one takes them down."""
    shared.write_spec(
        engine={"env": {"MOCK_FLAGS": FLAGS}}, gateway={"timeouts": {"drain": 8}}, fleet={"replicas": 2}
    )
    shared.up()
    return shared


def state(release: Any) -> FleetState:
    """As the supervisor tells it, without a command line between."""
    return live_state(ReleasePaths(release.root))


def pids(release: Any) -> dict[str, int | None]:
    return {replica.name: replica.pid for replica in state(release).replicas}


def under_load(release: Any, *commands: tuple[str, ...]) -> list[int]:
    """Run the commands while eight clients ask; every answer has to be whole. How many replicas were ready."""
    ready: list[int] = []

    async def watch() -> None:
        while True:
            now = await asyncio.to_thread(state, release)
            ready.append(sum(replica.phase is ReplicaPhase.READY for replica in now.replicas))
            await asyncio.sleep(0.05)

    async def scenario() -> None:
        async with Load(release.url, "mock", 8, 1) as load:
            watching = asyncio.create_task(watch())
            await asyncio.sleep(0.7)
            for command in commands:
                done = await asyncio.to_thread(release.run, *command)
                assert done.returncode == 0, done.stderr
            await asyncio.sleep(0.3)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        bad = [(r.outcome, r.ask, r.detail) for r in load.records if r.outcome is not Outcome.OK]
        assert bad == []
        assert {record.stream for record in load.records} == {True, False}

    asyncio.run(scenario())
    return ready


def send(release: Any, ask: Ask) -> Verdict:
    """One request and what became of it."""
    answer = Answer()
    try:
        with requests.post(
            release.url + ask.path,
            data=ask.body,
            headers={"content-type": "application/json"},
            stream=True,
            timeout=60,
        ) as response:
            answer.status = response.status_code
            for chunk in response.iter_content(chunk_size=None):
                answer.body += chunk
            answer.complete = True
    except requests.exceptions.RequestException as error:
        answer.error = repr(error)
    return classify(ask, answer)


def long_ask(*, stream: bool) -> Ask:
    """A chat whose answer has many words."""
    body = {
        "model": "tri-tiny",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": WORDS,
        "stream": stream,
    }
    return Ask("chat", stream, "ko", True, json.dumps(body).encode(), mock_answer("chat", QUESTION, WORDS))


class LongAnswers:
    """As many long answers at a time as are asked for, in threads; streams and whole ones in turn."""

    def __init__(self, release: Any, count: int) -> None:
        self._pool = ThreadPoolExecutor(count)
        asks = [long_ask(stream=number % 2 == 0) for number in range(count)]
        self._sent = [(ask, self._pool.submit(send, release, ask)) for ask in asks]

    def done(self) -> bool:
        """Whether all have ended."""
        return all(future.done() for _, future in self._sent)

    def verdicts(self) -> dict[bool, Counter[Outcome]]:
        """How streams (True) and the others ended, once all have."""
        found: dict[bool, Counter[Outcome]] = {True: Counter(), False: Counter()}
        for ask, future in self._sent:
            found[ask.stream][future.result(60).outcome] += 1
        self._pool.shutdown()
        return found

    def words(self) -> list[str]:
        """What those said that did not end well."""
        return [detail for _, future in self._sent if (detail := future.result(60).detail)]


def test_replicas_come_and_go_under_load_the_highest_numbers_first(fleet: Any) -> None:
    before = pids(fleet)
    under_load(fleet, ("scale", "--replicas", "4"))
    assert list(pids(fleet)) == ["replica-0", "replica-1", "replica-2", "replica-3"]
    ready = under_load(fleet, ("scale", "--replicas", "1"))
    assert pids(fleet) == {"replica-0": before["replica-0"]}
    assert min(ready) == 1
    under_load(fleet, ("scale", "--replicas", "2"))
    assert list(pids(fleet)) == ["replica-0", "replica-1"]
    assert state(fleet).desired_replicas == 2


def test_every_replica_is_restarted_under_load_and_one_is_always_ready(fleet: Any) -> None:
    before = pids(fleet)
    ready = under_load(fleet, ("restart",))
    assert min(ready) == 1
    assert not set(before.values()) & set(pids(fleet).values())
    assert state(fleet).desired_replicas == 2


def test_every_engine_is_replaced_under_load_and_one_is_always_ready(fleet: Any) -> None:
    before = pids(fleet)
    ready = under_load(fleet, ("up", "--no-ask", "--set", "engine.max_num_seqs=7"))
    assert min(ready) == 1
    assert not set(before.values()) & set(pids(fleet).values())


def test_what_outlasts_the_drain_is_ended_by_an_error_event_or_answered_by_another(
    fleet: Any, wait: Wait
) -> None:
    """Chat streams to be ended in words, answers that have not begun to be asked for elsewhere."""
    fleet.up("--set", "gateway.timeouts.drain=1", "--set", "engine.max_num_seqs=7")
    answers = LongAnswers(fleet, 8)
    wait(lambda: [r.in_flight for r in state(fleet).replicas] == [4, 4])
    done = fleet.run("scale", "--replicas", "1")
    assert done.returncode == 0, done.stderr
    assert "replica-1: its drain time is over" in done.stderr.replace("\n", " ")
    verdicts = answers.verdicts()
    assert verdicts[False] == {Outcome.OK: 4}
    assert verdicts[True][Outcome.ERROR_EVENT] >= 1
    assert set(verdicts[True]) <= {Outcome.OK, Outcome.ERROR_EVENT}
    assert all("drained" in words for words in answers.words()), answers.words()


def test_down_ends_running_streams_by_an_error_event_at_the_latest(fleet: Any, wait: Wait) -> None:
    answers = LongAnswers(fleet, 4)
    wait(lambda: sum(r.in_flight for r in state(fleet).replicas) == 4)
    assert fleet.run("down").returncode == 0
    verdicts = answers.verdicts()
    assert sum(verdicts[True].values()) == 2
    assert set(verdicts[True]) <= {Outcome.OK, Outcome.ERROR_EVENT}
    assert set(verdicts[False]) <= {Outcome.OK, Outcome.STATUS}
    fleet.nothing_left(1)


def test_a_fleet_follows_its_load(release: Any, wait: Wait) -> None:
    rule = {"min": 1, "max": 3, "target": 4, "scale_up_after": 3, "scale_down_after": 3}
    release.write_spec(engine={"env": {"MOCK_FLAGS": FLAGS}}, fleet={"replicas": rule})
    release.up()
    first = state(release)
    assert (first.autoscaling, first.desired_replicas) == ((1, 3), 1)

    with ThreadPoolExecutor(12) as pool:  # a spike, gone before it can have lasted
        assert set(pool.map(lambda _: release.ask(body={"max_tokens": 2}).status_code, range(12))) == {200}
    time.sleep(3.5)
    assert len(state(release).replicas) == 1

    load = [LongAnswers(release, 12)]
    deadline = time.monotonic() + 60
    while (now := state(release)).phase != "running" or len(now.replicas) < 3:
        assert time.monotonic() < deadline
        if load[-1].done():
            load.append(LongAnswers(release, 12))
        time.sleep(0.1)
    assert [replica.phase for replica in now.replicas] == ["ready"] * 3
    assert now.desired_replicas == 3
    for answers in load:
        assert answers.verdicts() == {True: {Outcome.OK: 6}, False: {Outcome.OK: 6}}
    wait(lambda: [r.name for r in state(release).replicas] == ["replica-0"], 30)
    assert state(release).desired_replicas == 1
    assert state(release).replicas[0].pid == first.replicas[0].pid

    # A number in place of the bounds, and back, while it runs.
    fixed = release.up("--set", "fleet.replicas=2")
    assert "→ start 1 more engine\n→ no longer follow the load\n" in fixed.stdout
    assert (state(release).autoscaling, len(state(release).replicas)) == (None, 2)
    assert "→ follow the load between 1 and 3 engines\n" in release.up().stdout
    wait(lambda: len(state(release).replicas) == 1, 30)


def test_added_engines_that_do_not_start_leave_the_fleet_as_it_is_and_are_tried_ever_later(
    release: Any, tmp_path: Any, wait: Wait
) -> None:
    rule = {"min": 1, "max": 2, "target": 1, "scale_up_after": 0, "scale_down_after": 60}
    poison = tmp_path / "poison"
    release.write_spec(
        engine={"env": {"MOCK_FLAGS": FLAGS, "MOCK_POISON": str(poison)}}, fleet={"replicas": rule}
    )
    release.up()
    before = pids(release)
    poison.touch()
    log = release.root / "logs" / "supervisor.log"
    with (
        requests.post(
            f"{release.url}/v1/completions",
            json={"model": "tri-tiny", "prompt": "x", "max_tokens": 4000, "stream": True},
            stream=True,
            timeout=60,
        ),
        requests.post(
            f"{release.url}/v1/completions",
            json={"model": "tri-tiny", "prompt": "y", "max_tokens": 4000, "stream": True},
            stream=True,
            timeout=60,
        ),
    ):
        wait(lambda: "keeps its 1 replicas for another 4 s" in log.read_text(), 30)
        assert "no kernel for this checkpoint" in log.read_text()
        assert log.read_text().count("keeps its") == 2
        assert (pids(release), state(release).desired_replicas) == (before, 1)
        assert release.ask().status_code == 200
        poison.unlink()
        wait(lambda: len(pids(release)) == 2 and state(release).phase == "running", 30)
