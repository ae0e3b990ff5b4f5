"""From starts to the table."""

from __future__ import annotations

import pytest

from benchmarks.start_up.contenders import Start
from benchmarks.start_up.report import summarise, table
from benchmarks.start_up.stream import tokens_in


def _start(name, *seconds, ray=None, spawned=None):
    streams = {f"engine-{k}": s for k, s in enumerate(seconds)}
    return Start(name, first_stream=streams, spawned_seconds=spawned, ray=ray or {})


def _round(bare, ours, **more):
    return {"bare": _start("bare", bare - 1, bare), "ray": _start("ray", ours, ours - 2, **more)}


def test_a_start_lasts_until_the_last_engine_has_given_a_stream():
    assert _start("ray", 10.0, 14.0, 12.0).seconds == 14.0


def test_ratios_are_taken_within_a_round():
    summary = summarise([_round(10.0, 12.0), _round(20.0, 24.0)])

    assert summary["ratios"]["ray"]["mean"] == pytest.approx(1.2)
    assert "bare" not in summary["ratios"]


def test_one_round_has_no_interval():
    text = table(summarise([_round(10.0, 12.0)]), 2, cost=False)

    assert "1.20x |" in text
    assert "nan" not in text


def test_rounds_that_agree_badly_still_make_a_table():
    rounds = [_round(29.9, 284.7), _round(440.4, 147.2)]
    for one in rounds:
        one["process"] = _start("process", 1040.0)

    assert max(map(len, table(summarise(rounds), 2, cost=True).splitlines())) <= 80


def test_what_ray_costs_is_shown_on_demand():
    ray = {"processes": 7, "rss_mib": 900.4, "pss_mib": 400.2}
    summary = summarise([_round(10.0, 12.0, ray=ray, spawned=3.21)])

    assert "PSS" not in table(summary, 2, cost=False)
    text = table(summary, 2, cost=True)
    assert "| Ray itself: PSS, MiB    |   400 |    400 |   400 |" in text
    assert "| first engine begun, ray | 3.2 s |  3.2 s | 3.2 s |" in text


def test_tokens_are_counted_as_the_engine_says():
    stream = (
        b'data: {"usage":null}\n\ndata: {"choices":[],"usage":{"completion_tokens":64}}\n\ndata: [DONE]\n\n'
    )

    assert tokens_in(stream) == 64
    assert tokens_in(b"data: [DONE]\n\n") == 0
