"""One process's share of a run, on the real clock but with a client and a workload that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent
import pytest

from tri_serve.load.figures.collector import Collector
from tri_serve.load.figures.evidence import evidence_of
from tri_serve.load.figures.summary import summarise
from tri_serve.load.records import Outcome, Phase, Record
from tri_serve.load.scenario.models import Arrivals, ClosedLoop, Constant, Scenario, Workload, Written
from tri_serve.load.swarm.closed import part_of
from tri_serve.load.swarm.order import RunOrder
from tri_serve.load.swarm.parts import Parts
from tri_serve.load.swarm.share import Share
from tri_serve.load.wire.answer import Answer
from tri_serve.load.workload.items import Item

PART = Written.model_validate_json('{"kind": "written", "name": "chat", "input": {"fixed": 8}}')


def an_item(index: int, turn: int = 0) -> Item:
    return Item(f"item-{index}.{turn}", "chat", "/v1/chat/completions", {}, 8, 4, turn=turn)


@dataclass
class Client:
    """Answers after a while."""

    seconds: float = 0.0
    asked: list[tuple[str, int]] = field(default_factory=list)
    closed: bool = False

    def ask(self, item: Item, record: Record) -> Answer:
        now = record.dispatched
        self.asked.append((item.id, now))
        record.sent = now
        gevent.sleep(self.seconds)
        record.first_choice = record.first_token = record.last_choice = record.last = record.done = (
            now + 1_000
        )
        record.event_times, record.event_tokens, record.output_tokens = [now + 1_000], [4], 4
        record.finish_reason, record.usage_reported, record.outcome = "length", True, Outcome.OK
        return Answer(f"answer to {item.id}")

    def close(self) -> None:
        self.closed = True


class Refusing(Client):
    """Refuses at once."""

    def ask(self, item: Item, record: Record) -> Answer:
        record.sent = record.done = record.dispatched
        record.outcome, record.detail = Outcome.STATUS, "503"
        return Answer()


@dataclass
class Conversation:
    index: int
    turns: int
    heard: list[tuple[str, ...]]

    @property
    def id(self) -> str:
        return f"session-{self.index}"

    def turn(self, number: int, answers: Sequence[str]) -> Item:
        self.heard.append(tuple(answers))
        return an_item(self.index, number)


@dataclass
class Asks:
    """The workload."""

    turns: int = 0
    heard: list[tuple[str, ...]] = field(default_factory=list)
    hash = "0" * 64
    remarks = ()

    def item(self, index: int) -> Item:
        return an_item(index)

    def session(self, index: int) -> Conversation | None:
        return Conversation(index, self.turns, self.heard) if self.turns else None


def a_share(
    folder: Path,
    arrivals: Arrivals,
    client: Client,
    workload: Asks | None = None,
    *,
    worker: int = 0,
    workers: int = 1,
    **more: Any,
) -> tuple[Share, list[Record]]:
    scenario = Scenario(
        title="x", arrivals=arrivals, workload=Workload(parts=(PART,)),
        **{"warm_up": 0.2, "window": 0.6, "grace": 2.0, **more},
    )  # fmt: skip
    order = RunOrder(
        run="r", folder=folder, url="http://h", model="m", scenario=scenario, scenario_folder=folder
    )
    records: list[Record] = []
    parts = Parts(client, workload or Asks())
    return Share(order, parts, worker, workers, on_record=records.append), records


def run(share: Share) -> dict[str, Any]:
    share.go(share.now() + 50_000_000)
    assert share.finished.wait(10)
    return share.report()


def test_requests_are_counted_in_the_phase_that_they_were_due_in(tmp_path: Path) -> None:
    client = Client()
    share, records = a_share(tmp_path, Constant(rate=50), client, cool_down=0.2)
    report = run(share)
    phases = [record.phase for record in records]
    assert (phases.count(Phase.WARM_UP), phases.count(Phase.WINDOW), phases.count(Phase.COOL_DOWN)) == (
        10,
        30,
        10,
    )
    figures = summarise(Collector.merge([report["collector"]]))
    assert (figures.scheduled, figures.outcomes["ok"]) == (30, 30)
    assert report["tokens"] == 4 * 50
    assert client.closed


def test_open_requests_may_end_in_the_grace_and_are_cancelled_after_it(tmp_path: Path) -> None:
    share, records = a_share(tmp_path, Constant(rate=20), Client(seconds=0.5), grace=1.0)
    run(share)
    assert {record.outcome for record in records} == {Outcome.OK}
    share, records = a_share(tmp_path / "b", Constant(rate=20), Client(seconds=30), grace=0.1)
    report = run(share)
    assert {record.outcome for record in records} == {Outcome.CANCELLED}
    assert len(records) == report["cancelled"] == 16
    # Not one of them had a token when the grace was over.
    assert Collector.merge([report["collector"]]).run.hung == 12


def test_a_process_on_another_machine_reports_on_the_leaders_clock(tmp_path: Path) -> None:
    hour = 3_600 * 10**9
    share, records = a_share(tmp_path, Constant(rate=50), Client())
    start = share.now() + 50_000_000
    share.go(start, ahead=hour)
    assert share.finished.wait(10)
    collector = Collector.merge([share.report()["collector"]])
    assert collector.window.begins == start + hour
    assert all(0 <= record.dispatched - hour - start < 10**9 for record in records)
    assert all(record.event_times[0] == record.first_token == record.dispatched + 1_000 for record in records)
    assert summarise(collector).steady.requests_per_second > 40


def test_stop_ends_it_at_once_with_what_there_is(tmp_path: Path) -> None:
    share, records = a_share(tmp_path, Constant(rate=50), Client(), window=60.0)
    share.go(share.now())
    gevent.sleep(0.6)
    share.stop()
    assert share.finished.wait(2)
    collector = Collector.merge([share.report()["collector"]])
    assert collector.ended is not None
    assert 0 < len(records) < 60


def test_a_conversation_sends_each_turn_after_the_answer_to_the_one_before(tmp_path: Path) -> None:
    client, workload = Client(), Asks(turns=3)
    share, records = a_share(tmp_path, Constant(rate=5), client, workload, warm_up=0.0)
    run(share)
    first = [name for name, _ in client.asked if name.startswith("item-0.")]
    assert first == ["item-0.0", "item-0.1", "item-0.2"]
    assert workload.heard[:3] == [(), ("answer to item-0.0",), ("answer to item-0.0", "answer to item-0.1")]
    assert all(record.dispatched >= record.scheduled for record in records)


def test_a_user_of_a_closed_loop_asks_again_when_answered(tmp_path: Path) -> None:
    client = Client(seconds=0.05)
    share, records = a_share(tmp_path, ClosedLoop(users=2, stagger=0.1), client)
    run(share)
    assert {record.index % 2 for record in records} == {0, 1}
    by_user = [[r for r in records if r.index % 2 == user] for user in (0, 1)]
    for asked in by_user:
        assert [record.index // 2 for record in asked] == list(range(len(asked)))
        assert len(asked) >= 5
    # The second user begins half of the stagger later.
    assert 30e6 < by_user[1][0].dispatched - by_user[0][0].dispatched < 150e6


def test_a_number_of_requests_ends_the_window_of_a_closed_loop(tmp_path: Path) -> None:
    client = Client(seconds=0.02)
    loop = ClosedLoop(users=4, stagger=0.0)
    share, records = a_share(tmp_path, loop, client, window=60.0, requests=10, warm_up=0.1)
    collector = Collector.merge([run(share)["collector"]])
    counted = [record for record in records if record.phase is Phase.WINDOW]
    assert len(counted) == 10
    # Three rounds of 20 ms, and no more is asked; the made up client says that its answers were there at once.
    assert 0.05 < summarise(collector).window_seconds < 0.5
    evidence = evidence_of(collector, open_loop=False, steady_load=True, warm_up_seconds=0.1)
    assert evidence.stopped_early is False
    assert collector.until >= max(record.dispatched for record in counted) + 20_000_000


def test_processes_have_the_number_of_requests_together_and_the_last_one_ends_the_window(
    tmp_path: Path,
) -> None:
    messages, records, begin = [], [], 0
    for worker, seconds in enumerate((0.02, 0.06)):
        share, mine = a_share(
            tmp_path, ClosedLoop(users=3, stagger=0.0), Client(seconds=seconds), window=60.0, requests=11,
            warm_up=0.0, worker=worker, workers=2,
        )  # fmt: skip
        begin = begin or share.now()
        share.go(begin)
        assert share.finished.wait(10)
        messages.append(share.report()["collector"])
        records.append(mine)
        begin = share.collector.window.start
    assert [len(mine) for mine in records] == [7, 4]
    collector = Collector.merge(messages)
    assert summarise(collector).scheduled == 11
    assert collector.until == messages[1]["finished"] > messages[0]["finished"]


@pytest.mark.parametrize(("requests", "users", "workers"), [(11, 3, 2), (1, 10, 4), (5, 2, 4), (100, 7, 3)])
def test_the_parts_of_a_number_of_requests_add_up(requests: int, users: int, workers: int) -> None:
    parts = [part_of(requests, users, worker, workers) for worker in range(workers)]
    assert sum(parts) == requests
    assert not any(parts[users:])


def test_users_whose_requests_fail_wait_before_they_ask_again(tmp_path: Path) -> None:
    share, records = a_share(tmp_path, ClosedLoop(users=1, stagger=0.0), Refusing(), warm_up=0.0, window=1.0)
    report = run(share)
    # At 0, 0.1, 0.3 and 0.7 s.
    assert [round((record.dispatched - records[0].dispatched) / 1e8) for record in records] == [0, 1, 3, 7]
    assert report["pauses_after_failures"] == 4


def test_a_user_who_thinks_keeps_nobody_waiting_at_the_end(tmp_path: Path) -> None:
    share, _ = a_share(tmp_path, ClosedLoop(users=2, stagger=0.0, think=3_000.0), Client(), grace=5.0)
    began = share.now()
    run(share)
    assert (share.now() - began) / 1e9 < 2


def test_a_later_turn_is_due_when_the_answer_was_there(tmp_path: Path) -> None:
    share, records = a_share(tmp_path, Constant(rate=2), Client(), Asks(turns=2), warm_up=0.0)
    run(share)
    first, second = [record for record in records if record.index == 0]
    assert second.scheduled == first.done


def test_what_may_not_be_open_is_unsent_and_asks_nothing(tmp_path: Path) -> None:
    client = Client(seconds=30)
    share, records = a_share(tmp_path, Constant(rate=20), client, most_open=3, grace=0.0)
    run(share)
    unsent = [record for record in records if record.outcome is Outcome.UNSENT]
    assert len(client.asked) == 3
    assert len(unsent) == len(records) - 3 == 13
    assert "share of most_open" in unsent[0].detail
