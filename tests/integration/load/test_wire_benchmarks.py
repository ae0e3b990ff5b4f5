"""The benchmarks of the client in their short forms: what they measure is what they say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.load import agreement, ceiling, contenders, engine_clients, truth
from benchmarks.load.agreement_engine import write_prompts
from benchmarks.load.contenders import ContenderError, Load, Seen
from benchmarks.load.engine_clients import Turn
from benchmarks.load.paired import NAMES
from benchmarks.load.replay import END, Replay, Step, chat_script
from tri_serve.load.records import Record


@pytest.fixture
def cores() -> Iterator[None]:
    """The benchmarks bind their process to a core; the tests after them should have all."""
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


def _ask(comment: bool, requests: int = 6) -> list[Record]:
    with Replay(agreement.recorded_script(comment=comment)) as server:
        _, records = contenders.ours(Load(server.url, requests, 50.0, agreement.TOKENS))
    assert server.report["requests"] == requests
    return records


@pytest.mark.parametrize("comment", [False, True])
def test_the_uneven_stream_is_read_event_by_event(comment: bool) -> None:
    """The best of each event's times: other programs make any of them late, and nothing makes one early."""
    records = _ask(comment)
    best = [
        min((times[n] - record.sent) / 1e6 for record in records for times in [record.event_times])
        for n in range(len(records[0].event_times))
    ]
    assert len(best) == 9
    for found, due in zip(best, (100, 200, 220, 270, 300, 300, 600, 650, 700), strict=True):
        # The server's clock begins when the request has come.
        assert due <= found < due + 20
    first, last = records[0], min((record.last - record.sent) / 1e6 for record in records)
    assert first.event_tokens == [0, 1, 1, 1, 1, 1, 1, 0, 1]
    assert first.first_choice < first.first_token
    assert (first.output_tokens, first.input_tokens) == (agreement.TOKENS, contenders.PROMPT_TOKENS)
    assert 800 <= last < 820


def test_reported_figures_follow_vllm_s_definitions() -> None:
    """Worked out by hand from the answers; benchmarks.load.agreement asks vLLM's own code."""
    records = _ask(comment=False)
    answers = [contenders.seen(record) for record in records]
    found = agreement.figures(records, 50.0, contenders.GOODPUT_MS)
    assert set(found) == {*agreement.TOTALS, *agreement.KEYS}
    ttfts = sorted(answer.ttft for answer in answers)
    assert found["mean_ttft_ms"] == pytest.approx(sum(ttfts) / 6, rel=1e-9)
    assert found["median_ttft_ms"] == pytest.approx((ttfts[2] + ttfts[3]) / 2, rel=1e-9)
    assert found["p99_ttft_ms"] == pytest.approx(ttfts[4] + 0.95 * (ttfts[5] - ttfts[4]), rel=1e-9)
    gaps = [gap for answer in answers for gap in answer.gaps]
    assert len(gaps) == 6 * 8
    assert found["mean_itl_ms"] == pytest.approx(sum(gaps) / 48, rel=1e-9)
    tpots = [(answer.e2e - answer.ttft) / (agreement.TOKENS - 1) for answer in answers]
    assert found["mean_tpot_ms"] == pytest.approx(sum(tpots) / 6, rel=1e-9)
    assert found["mean_e2el_ms"] == pytest.approx(sum(answer.e2e for answer in answers) / 6, rel=1e-9)
    # The first of the six is due a gap after the begin, the last one's answer takes 0.8 s.
    assert 6 / 50 + 0.8 <= found["duration"] < 6 / 50 + 0.9
    assert (found["completed"], found["failed"]) == (6, 0)
    assert found["total_output_tokens"] == 6 * agreement.TOKENS
    assert found["output_throughput"] == pytest.approx(6 * agreement.TOKENS / found["duration"])
    assert found["request_goodput"] == found["request_throughput"] == pytest.approx(6 / found["duration"])
    assert found["max_concurrent_requests"] == 6


def test_an_engine_is_asked_at_vllm_s_times_and_every_figure_is_there(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.json"
    write_prompts(prompts, 6, seed=0)
    with Replay(agreement.recorded_script()) as server:
        turn = Turn(server.url, "m", str(prompts), 6, agreement.TOKENS, 10.0, 1.0, 0, "salt")
        said = engine_clients.ours(turn)
    assert set(said.figures) == set(NAMES)
    assert said.figures["completed"] == 6
    # The last one is due after 6/10 s, and its answer takes 0.8 s.
    assert 1.4 <= said.figures["duration"] < 1.6
    assert max(said.lags) < 50


def test_a_failed_request_ends_the_comparison(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.json"
    write_prompts(prompts, 2, seed=0)
    turn = Turn("http://127.0.0.1:1", "m", str(prompts), 2, 8, 10.0, 1.0, 0, "")
    with pytest.raises(ContenderError, match="2 of 2 failed: connect"):
        engine_clients.ours(turn)


def test_errors_are_measured_from_the_schedule() -> None:
    # Late by 1 ms at first, and then by 0.5 ms more.
    answer = Seen(ttft=201.0, gaps=(0.0, 50.5, 50.0), e2e=301.5, tokens=3)
    found = truth.errors([answer], 3)
    assert found["ttft"]["p50"] == pytest.approx(1.0)
    assert found["tpot"]["max"] == pytest.approx(0.25)
    assert found["itl"]["max"] == pytest.approx(0.5)


def test_streams_are_timed_truly() -> None:
    found = truth.measure("ours", streams=8, tokens=4, options={})
    assert found["answers"] == 8
    assert found["server"]["requests"] == 8
    # The best answer: other programs of the machine make any of them late.
    assert found["errors_ms"]["ttft"]["least"] < 3
    assert found["errors_ms"]["itl"]["least"] < 1


@pytest.mark.usefixtures("cores")
def test_the_ceiling_counts_events_and_wrong_answers() -> None:
    found = ceiling.measure_events(rate=400, seconds=1.5)
    assert found["failed"] == 0
    assert found["streams"] == 8
    assert found["events"] == found["requests"] * 65
    assert found["server"]["requests"] == found["requests"] >= 8
    assert found["events_per_cpu_second"] > 1_000


@pytest.mark.usefixtures("cores")
def test_memory_stays_flat_over_many_requests() -> None:
    # Until the allocator has its size, some 2 MiB come once: with 3,000 requests that was as much as a leak.
    found = ceiling.measure_memory(20_000, lambda _line: None)
    assert found["failed"] == 0
    assert len(found["resident_bytes"]) == 10
    # A record that is kept has more than a kilobyte.
    assert found["growth_bytes_per_request"] < 700


def test_a_wrong_answer_ends_a_comparison() -> None:
    *script, end = chat_script(0.0, 0.0, 3)
    without_done = Step(end.at, END)
    with (
        Replay([*script, without_done]) as server,
        pytest.raises(contenders.ContenderError, match=r"not whole: cut, the stream ended without \[DONE\]"),
    ):
        contenders.ours(Load(server.url, 1, 1.0, 3))
