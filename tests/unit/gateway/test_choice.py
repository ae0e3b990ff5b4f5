"""Who gets a request: the policy, and the ledger that feeds it."""

from __future__ import annotations

from collections import Counter

import pytest

from tri_serve.gateway.config import ReplicaAddress
from tri_serve.gateway.ledger import DOUBT_SECONDS, Ledger, RosterItem
from tri_serve.gateway.policy import Load, least_loaded


def addresses(count: int) -> list[ReplicaAddress]:
    return [ReplicaAddress(name=f"replica-{n}", host="127.0.0.1", port=9000 + n) for n in range(count)]


def ledger(*ready: bool) -> Ledger:
    book = Ledger(engine_key=None)
    book.update([RosterItem(*item) for item in zip(addresses(len(ready)), ready, strict=True)], now=0.0)
    return book


def test_the_replica_with_the_fewest_requests_is_taken() -> None:
    loads = [Load("a", 3), Load("b", 1), Load("c", 2)]
    assert [least_loaded(loads, tie) for tie in range(5)] == [1] * 5


def test_equals_share_requests_evenly() -> None:
    loads = [Load("a", 1), Load("b", 2), Load("c", 1)]
    assert Counter(least_loaded(loads, tie) for tie in range(100)) == {0: 50, 2: 50}


def test_no_replica_is_an_error() -> None:
    with pytest.raises(ValueError, match="no replica"):
        least_loaded([], 0)


def test_a_replica_that_is_not_ready_or_was_tried_is_never_chosen() -> None:
    book = ledger(True, False, True)
    first, _, last = book.replicas
    assert {book.choose(tie, 0.0, []) for tie in range(10)} == {first, last}
    assert {book.choose(tie, 0.0, [first]) for tie in range(10)} == {last}
    assert book.choose(0, 0.0, [first, last]) is None


def test_a_doubted_replica_is_taken_only_when_no_other_is_left() -> None:
    book = ledger(True, True)
    first, second = book.replicas
    first.doubted_until = 10.0
    assert {book.choose(tie, 9.0, []) for tie in range(10)} == {second}
    assert book.choose(0, 9.0, [second]) is first
    assert {book.choose(tie, 10.0, []) for tie in range(10)} == {first, second}
    assert DOUBT_SECONDS > 0


def test_a_new_roster_keeps_counts_of_those_who_stay_and_retires_those_who_go() -> None:
    book = ledger(True, True)
    first, second = book.replicas
    first.in_flight = 7
    book.update([RosterItem(first.address, True)], now=0.0)
    assert book.replicas == [first]
    assert first.in_flight == 7
    assert second.retired
    assert not second.ready


def test_a_replica_that_becomes_ready_again_is_not_doubted_any_more() -> None:
    book = ledger(True)
    (replica,) = book.replicas
    replica.doubted_until = 10.0
    book.update([RosterItem(replica.address, False)], now=0.0)
    book.update([RosterItem(replica.address, True)], now=0.0)
    assert replica.doubted_until == 0.0


def test_a_name_at_another_address_is_another_replica() -> None:
    book = ledger(True)
    (before,) = book.replicas
    moved = ReplicaAddress(name=before.name, host="127.0.0.1", port=9999)
    book.update([RosterItem(moved, True)], now=0.0)
    assert book.replicas[0] is not before


def test_a_replica_that_begins_to_drain_is_the_same_replica() -> None:
    book = ledger(True)
    (before,) = book.replicas
    before.in_flight = 3
    draining = before.address.model_copy(update={"draining": True})
    book.update([RosterItem(draining, False)], now=0.0)
    assert book.replicas == [before]
    assert before.in_flight == 3
    assert not before.retired
    assert book.choose(0, 0.0, []) is None


def test_what_an_engine_reports_of_others_counts_until_it_is_old() -> None:
    book = ledger(True, True)
    first, second = book.replicas
    second.in_flight = 1
    roster = [RosterItem(first.address, True, (9, 1.0)), RosterItem(second.address, True, (1, 1.0))]
    book.update(roster, now=1.0)
    assert {book.choose(tie, 1.0, []) for tie in range(4)} == {second}
    book.weigh(now=60.0)
    assert {book.choose(tie, 60.0, []) for tie in range(4)} == {first}


def test_a_report_is_compared_with_what_ran_when_it_came_not_when_it_is_told_again() -> None:
    book = ledger(True)
    (replica,) = book.replicas
    replica.in_flight = 4
    book.update([RosterItem(replica.address, True, (6, 1.0))], now=1.0)
    replica.in_flight = 0
    book.update([RosterItem(replica.address, True, (6, 1.0))], now=1.1)
    assert replica.report is not None
    assert replica.report.others == 2


def test_a_replica_is_worth_waiting_for_unless_all_are_drained_on_purpose() -> None:
    first, second = addresses(2)
    drained = [address.model_copy(update={"draining": True}) for address in (first, second)]
    book = Ledger(engine_key=None)
    assert book.may_be_ready_soon  # nobody has said yet who is there
    for roster, expected in (
        ([first, second], True),
        ([drained[0], second], True),
        (drained, False),
        ([first], True),
        ([drained[0]], False),
        ([], True),
    ):
        book.update([RosterItem(address, ready=False) for address in roster], now=0.0)
        assert book.may_be_ready_soon is expected
