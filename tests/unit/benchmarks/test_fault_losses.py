"""Which failures a kill explains."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.faults.connector import Connection
from benchmarks.faults.losses import Death, quiet_median, sort_losses, unexplained, waits_of
from benchmarks.faults.streams import Outcome
from benchmarks.faults.traffic import Record

DEATH = Death(looked=9.999, at=10.0, ports=frozenset({5001, 5002}), until=12.0)
OF_ALL = dataclasses.replace(DEATH, ports=None)


def _record(*, opened=9.0, began=9.5, ended=10.01, port=5001, outcome=Outcome.CUT):
    return Record(0, "chat, stream, ko", True, began, opened, None, ended, outcome, "", "id", port)


def _lost(record, death=DEATH):
    losses = sort_losses([record], [death])
    return len(losses.by_death[0]), len(losses.others)


def test_a_stream_on_a_connection_of_the_victim_is_lost_with_it():
    assert _lost(_record()) == (1, 0)


def test_a_stream_of_another_process_is_not_explained():
    assert _lost(_record(port=6000)) == (0, 1)


def test_where_every_process_ends_every_connection_is_the_victims():
    assert _lost(_record(port=6000), OF_ALL) == (1, 0)


def test_a_connection_opened_after_the_kill_is_not_explained():
    assert _lost(_record(opened=10.002, began=10.002, outcome=Outcome.STATUS), OF_ALL) == (0, 1)


@pytest.mark.parametrize("rest", [0.003, 4.0])
def test_a_request_on_an_old_connection_after_the_kill_is_lost_with_it(rest):
    assert _lost(_record(began=10.0 + rest, ended=10.01 + rest, outcome=Outcome.LOST)) == (1, 0)


def test_a_connection_accepted_between_the_look_and_the_kill_may_be_the_victims():
    assert _lost(_record(opened=9.9995, began=9.9995, port=7000)) == (1, 0)


def test_what_ended_before_the_kill_is_not_explained():
    assert _lost(_record(ended=9.8)) == (0, 1)


def test_wrong_text_is_explained_by_nothing():
    assert _lost(_record(outcome=Outcome.WRONG)) == (0, 1)


def test_answered_requests_are_no_losses():
    assert _lost(_record(outcome=Outcome.OK)) == (0, 0)


def _connection(opened, *, waited=0.001, outcome=Outcome.OK):
    return Connection(opened, opened, opened + waited, outcome)


def test_a_new_connection_may_wait_but_not_fail():
    late = _connection(10.1, waited=0.8)
    failed = _connection(10.2, outcome=Outcome.LOST)
    waits = waits_of([_connection(9.0), late, failed, _connection(13.0)], DEATH)

    assert (waits.opened, waits.longest, waits.failed) == (2, pytest.approx(0.8), (failed,))
    assert unexplained([late, failed], [DEATH]) == [failed]


def test_a_connection_in_the_victims_hand_is_lost_with_it():
    held = _connection(9.999, waited=0.002, outcome=Outcome.LOST)

    assert waits_of([held], DEATH).in_hand == 1
    assert unexplained([held], [DEATH]) == []


def test_a_refused_connection_is_never_explained():
    refused = _connection(9.999, waited=0.002, outcome=Outcome.REFUSED)

    assert unexplained([refused], [DEATH]) == [refused]


def test_the_quiet_median_leaves_kills_out():
    connections = [_connection(5.0, waited=0.002), _connection(11.0, waited=3.0)]

    assert quiet_median(connections, [DEATH]) == pytest.approx(0.002)
