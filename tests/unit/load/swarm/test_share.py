"""One process's share of a run, on the real clock but with a client and a workload that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent

from tri_serve.load.figures.collector import Collector
from tri_serve.load.figures.summary import summarise
from tri_serve.load.records import Outcome, Phase, Record
from tri_serve.load.scenario.models import Arrivals, ClosedLoop, Constant, Scenario, Workload, Written
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
    folder: Path, arrivals: Arrivals, client: Client, workload: Asks | None = None, **more: Any
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
    return Share(order, parts, 0, 1, on_record=records.append), records


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
    share, records = a_share(
        tmp_path,
        ClosedLoop(users=2, stagger=0.0),
        Client(seconds=0.02),
        window=60.0,
        requests=10,
        warm_up=0.0,
    )
    run(share)
    assert sum(record.phase is Phase.WINDOW for record in records) in (10, 11)


def test_what_may_not_be_open_is_unsent_and_asks_nothing(tmp_path: Path) -> None:
    client = Client(seconds=30)
    share, records = a_share(tmp_path, Constant(rate=20), client, most_open=3, grace=0.0)
    run(share)
    unsent = [record for record in records if record.outcome is Outcome.UNSENT]
    assert len(client.asked) == 3
    assert len(unsent) == len(records) - 3 == 13
    assert "share of most_open" in unsent[0].detail
