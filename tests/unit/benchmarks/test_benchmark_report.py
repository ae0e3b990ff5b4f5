"""From raw rounds to the table."""

from __future__ import annotations

import pytest

from benchmarks.gateway.report import brief, summarise, table


def _requests(rate, *, busy=0.99, others=0.0):
    return {"requests_per_cpu_second": rate, "cpu_share": busy, "others_cpu_share": others}


def _ttft(milliseconds):
    return {"ttft_p50_ms": milliseconds, "others_cpu_share": 0.0}


def _rounds(**overrides):
    """Two rounds in which ours relays twice what vllm-router does."""
    return [
        {
            "tri-serve": {"requests": _requests(2 * rate, **overrides)},
            "vllm-router": {"requests": _requests(rate)},
        }
        for rate in (10_000.0, 20_000.0)
    ]


def test_ratio_is_taken_within_each_round():
    summary = summarise(_rounds())

    ratio = summary["ratios"]["vllm-router"]["requests_per_cpu_second"]
    assert (ratio["mean"], ratio["low"], ratio["high"]) == pytest.approx((2.0, 2.0, 2.0))
    assert summary["routers"]["tri-serve"]["requests_per_cpu_second"]["mean"] == 30_000


def test_added_ttft_is_less_what_the_engine_itself_takes_in_the_same_round():
    rounds = [
        {"direct": {"ttft": _ttft(direct)}, "tri-serve": {"ttft": _ttft(direct + 0.25)}}
        for direct in (0.5, 1.5)
    ]

    summary = summarise(rounds)

    assert summary["routers"]["tri-serve"]["ttft_added_p50_ms"]["mean"] == pytest.approx(0.25)
    assert "ttft_added_p50_ms" not in summary["routers"]["direct"]
    assert "| direct | (1.000 " in table(summary, "title")


def test_table_shows_only_what_was_measured():
    text = table(summarise(_rounds()), "the machine")

    assert text.startswith("the machine\n\n| router | requests / CPU s |\n")
    assert "| vllm-router | 2.00× [2.00, 2.00] |" in text
    assert "chunks" not in text.partition("Means with")[0]


def test_requests_light_gets_a_column_beside_requests():
    rounds = _rounds()
    for one in rounds:
        for loads in one.values():
            loads["requests_light"] = {"requests_light_per_cpu_second": 5_000.0, "others_cpu_share": 0.0}

    text = table(summarise(rounds), "title")

    assert "| router | requests / CPU s | the same, not saturated |" in text
    assert "| tri-serve against | requests | requests_light |" in text


def test_table_says_how_busy_each_router_was():
    text = table(summarise(_rounds()), "title")

    assert "Router busy in requests: tri-serve 99%, vllm-router 99%." in text
    assert "Not saturated" not in text


def test_table_names_a_router_that_was_not_at_its_limit():
    text = table(summarise(_rounds(busy=0.82)), "title")

    assert "**Not saturated in requests, under 90% of its core: tri-serve.**" in text


@pytest.mark.parametrize(("others", "said"), [(0.02, False), (0.4, True)])
def test_table_says_when_the_machine_was_not_quiet(others, said):
    text = table(summarise(_rounds(others=others)), "title")

    assert ("Other programs used 20% of this machine" in text) is said


def test_one_round_prints_figures_without_intervals():
    text = table(summarise(_rounds()[:1]), "title")

    assert "| **tri-serve** | 20,000 |" in text
    assert "nan" not in text


def test_progress_line_tells_rate_and_busy_share():
    line = brief({"haproxy": {"requests": _requests(61_581.0), "ttft": _ttft(0.5)}})

    assert line == "haproxy 61,581 requests/CPU s (router busy 99%), TTFT 0.500 ms"
