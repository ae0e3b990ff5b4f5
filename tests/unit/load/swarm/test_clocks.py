"""A start that several machines agree on."""

from __future__ import annotations

import time

import pytest

from tri_serve.boot import boot_id
from tri_serve.load.records import Record
from tri_serve.load.swarm import clocks
from tri_serve.load.swarm.clocks import shift, start_here


def test_on_the_same_machine_the_start_is_what_was_said() -> None:
    assert start_here({"start": 123, "wall_start": 0, "boot": boot_id()}) == 123


def test_a_machine_that_cannot_be_told_from_others_goes_by_the_wall_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clocks, "boot_id", lambda: "")
    assert start_here({"start": 123, "wall_start": time.time_ns(), "boot": ""}) > 10**6


def test_on_another_machine_the_wall_clocks_decide() -> None:
    agreed = {"start": 123, "wall_start": time.time_ns() + 10**9, "boot": "another machine's"}
    ahead = start_here(agreed) - time.perf_counter_ns()
    assert abs(ahead - 10**9) < 0.2e9


def test_a_shift_moves_what_happened_and_nothing_else() -> None:
    record = Record(7, "i", scheduled=10, sent=20, event_times=[30, 40], event_tokens=[1, 2], output_tokens=3)
    shift(record, 1_000)
    assert (record.scheduled, record.sent, record.done, record.head) == (1_010, 1_020, 0, 0)
    assert record.event_times == [1_030, 1_040]
    assert (record.index, record.event_tokens, record.output_tokens) == (7, [1, 2], 3)
