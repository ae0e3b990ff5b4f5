"""Where the time to the first token went."""

from __future__ import annotations

import pytest

from tri_serve.load.results.model import TtftPart
from tri_serve.load.server_side.page import Buckets
from tri_serve.load.server_side.split import doubts, split_ttft


def shown(parts: tuple[TtftPart, ...]) -> list[tuple[str, float]]:
    return [(part.name, part.mean_ms) for part in parts]


def test_every_stage_is_what_the_next_one_inside_did_not_see() -> None:
    parts = split_ttft(client=100, gateway=95, engine=90, queue=30, prefill=50)
    assert shown(parts) == [("client", 5), ("gateway", 5), ("queue", 30), ("prefill", 50), ("rest", 10)]


@pytest.mark.parametrize(
    ("seen", "parts"),
    [
        ((None, 90, 30, 50), ["client", "queue", "prefill", "rest"]),
        ((95, None, None, None), ["client", "gateway"]),
        ((95, 90, None, None), ["client", "gateway", "rest"]),
        ((95, 90, 30, None), ["client", "gateway", "queue", "rest"]),
        ((95, None, 30, 50), ["client", "gateway"]),
        ((None, None, None, None), ["client"]),
    ],
)
def test_the_parts_add_up_whatever_is_not_measured(seen: tuple[float | None, ...], parts: list[str]) -> None:
    split = split_ttft(100, *seen)
    assert [part.name for part in split] == parts
    assert sum(part.mean_ms for part in split) == pytest.approx(100)


def test_every_part_says_which_metrics_it_is_from() -> None:
    client, *_, rest = split_ttft(100, 95, 90, 30, 50)
    assert client.source == "the client's ttft − tri_gateway_first_event_seconds"
    assert "vllm:request_prefill_time_seconds" in rest.source


def test_means_of_other_numbers_of_requests_are_told() -> None:
    few, same = Buckets(1.0, 80, {}), Buckets(1.0, 95, {})
    remarks = doubts(100, {"the gateway's": same, "the engines'": few, "nobody's": None})
    assert len(remarks) == 1
    assert "the engines' is the mean of 80 requests, the client's of 100" in remarks[0]
