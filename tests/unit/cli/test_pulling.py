"""How the progress of a download is told."""

from __future__ import annotations

import pytest

from tri_serve.checkpoint.pull import PullProgress
from tri_serve.cli.pulling import amount, duration, progress_line


def test_a_line_says_how_much_how_fast_and_how_long() -> None:
    progress = PullProgress(done=2_300_000_000, total=12_650_000_000, rate=112e6, files_done=3, files=9)
    assert progress_line("owner/name", progress) == (
        "owner/name: 2.3 GB of 12.7 GB (18%), 112.0 MB/s, 1 min 33 s left"
    )


def test_before_a_rate_is_known_none_is_told() -> None:
    progress = PullProgress(done=0, total=10, rate=0.0, files_done=0, files=1)
    assert progress_line("owner/name", progress) == "owner/name: 0 B of 10 B (0%)"


@pytest.mark.parametrize(
    ("size", "words"),
    [(999, "999 B"), (1_000, "1.0 kB"), (15_500_000, "15.5 MB"), (12_654_315_520, "12.7 GB")],
)
def test_amounts_are_told_as_disks_and_networks_count(size: int, words: str) -> None:
    assert amount(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (59.5, "1 min 0 s"), (92.4, "1 min 33 s"), (7_500, "2 h 5 min")]
)
def test_durations_are_rounded_up(seconds: float, words: str) -> None:
    assert duration(seconds) == words
