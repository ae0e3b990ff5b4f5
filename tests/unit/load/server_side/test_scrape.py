"""Snapshots over a run: restarts, sources that fail, bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from tri_serve.load.server_side import scrape
from tri_serve.load.server_side.scrape import Scraper, Source

ENGINE = Source("replica-0", "engine", "http://127.0.0.1:1/metrics")
GATEWAY = Source("gateway", "gateway", "http://127.0.0.1:2/metrics")


def engine_page(tokens: float, ttft_sum: float, ttft_count: int, start: float | None = None) -> bytes:
    lines = [
        f'vllm:generation_tokens_total{{engine="0"}} {tokens}',
        f'vllm:time_to_first_token_seconds_bucket{{engine="0",le="+Inf"}} {ttft_count}.0',
        f'vllm:time_to_first_token_seconds_count{{engine="0"}} {ttft_count}.0',
        f'vllm:time_to_first_token_seconds_sum{{engine="0"}} {ttft_sum}',
    ]
    if start is not None:
        lines.append(f"process_start_time_seconds {start}")
    return "\n".join(lines).encode()


def scraper_of(*pages: bytes | Exception, source: Source = ENGINE) -> tuple[Scraper, Callable[[], None]]:
    left = list(pages)

    def fetch(url: str) -> bytes:
        assert url == source.url
        page = left.pop(0)
        if isinstance(page, Exception):
            raise page
        return page

    clock = itertools.count(0, 10**9)
    scraper = Scraper([source], fetch, lambda: next(clock))
    return scraper, lambda: [scraper.snapshot() for _ in pages].clear()


def test_counts_go_on_over_a_restart_and_the_restart_is_told() -> None:
    scraper, take_all = scraper_of(
        engine_page(1_000, 5.0, 10),
        engine_page(1_500, 7.0, 14),
        engine_page(40, 0.5, 1),
        engine_page(90, 1.0, 2),
    )
    take_all()
    last = scraper.history.snapshots[-1].pages["replica-0"]
    assert last.counters["vllm:generation_tokens"] == 1_590
    assert last.histograms["vllm:time_to_first_token_seconds"].count == 16
    assert last.histograms["vllm:time_to_first_token_seconds"].total == 8.0
    assert scraper.history.restarts == [(2 * 10**9, "replica-0")]


def test_a_restart_is_seen_by_the_start_time_even_if_the_new_counts_are_higher() -> None:
    scraper, take_all = scraper_of(engine_page(100, 1, 1, 1.0), engine_page(500, 5, 5, 2.0))
    take_all()
    assert scraper.history.snapshots[-1].pages["replica-0"].counters["vllm:generation_tokens"] == 600
    assert [name for _, name in scraper.history.restarts] == ["replica-0"]


def test_a_second_restart_adds_up_with_the_first() -> None:
    scraper, take_all = scraper_of(*(engine_page(tokens, 1, 1) for tokens in (100, 10, 5)))
    take_all()
    assert scraper.history.snapshots[-1].pages["replica-0"].counters["vllm:generation_tokens"] == 115
    assert len(scraper.history.restarts) == 2


def test_a_source_that_fails_is_counted_with_its_reason_and_is_no_restart() -> None:
    scraper, take_all = scraper_of(
        engine_page(100, 1, 1), ConnectionRefusedError("refused"), b"nothing of ours", engine_page(150, 2, 2)
    )
    take_all()
    history = scraper.history
    assert [set(snapshot.pages) for snapshot in history.snapshots] == [
        {"replica-0"},
        set(),
        set(),
        {"replica-0"},
    ]
    assert history.failures == {"replica-0": (2, "none of the wanted metrics is on its page")}
    assert history.restarts == []


def test_a_page_with_a_broken_number_fails_that_source_alone() -> None:
    pages = {
        ENGINE.url: b'vllm:generation_tokens_total{engine="0"} NaN',
        GATEWAY.url: b"tri_gateway_loop_lag_seconds 0.25",
    }
    scraper = Scraper([ENGINE, GATEWAY], pages.__getitem__)
    snapshot = scraper.snapshot()
    assert set(snapshot.pages) == {"gateway"}
    assert "vllm:generation_tokens_total" in scraper.history.failures["replica-0"][1]


def test_a_long_run_keeps_its_ends_and_a_bounded_number_between() -> None:
    count = 5 * scrape.MOST_SNAPSHOTS
    scraper, take_all = scraper_of(*(engine_page(n, n, n) for n in range(count)))
    take_all()
    snapshots = scraper.history.snapshots
    assert len(snapshots) <= scrape.MOST_SNAPSHOTS
    assert (snapshots[0].at, snapshots[-1].at) == (0, (count - 1) * 10**9)
    gaps = [after.at - before.at for before, after in itertools.pairwise(snapshots)]
    assert max(gaps) <= 32 * 10**9
    assert scraper.history.rounds == count


def test_a_moment_that_figures_are_counted_from_is_never_dropped() -> None:
    scraper, _ = scraper_of(*(engine_page(n, n, n) for n in range(4 * scrape.MOST_SNAPSHOTS)))
    marked = [scraper.snapshot(keep=number % 401 == 400).at for number in range(4 * scrape.MOST_SNAPSHOTS)]
    assert set(marked[400::401]) <= {one.at for one in scraper.history.snapshots}


def test_following_ends_when_it_is_told_to() -> None:
    scraper, _ = scraper_of(*(engine_page(n, n, n) for n in range(9)))
    naps: list[float] = []
    scraper.follow(naps.append, lambda: len(naps) >= 4, interval=2.0)
    assert naps == [2.0] * 4
    assert len(scraper.history.snapshots) == 3
