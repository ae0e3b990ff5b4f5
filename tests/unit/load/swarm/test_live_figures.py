"""What the processes of a running load say, taken together."""

from __future__ import annotations

import pytest

from tri_serve.load.swarm.live_figures import LiveCounts, merge_live
from tri_serve.spec.slo import Slo


def message(**own: float) -> dict[str, object]:
    return {**LiveCounts(Slo()).to_message(10**9, open_requests=2), **own}


def test_the_worst_process_is_shown() -> None:
    merged = merge_live(
        [message(loop_lag_p99_ms=0.4, cpu_share=0.8), message(loop_lag_p99_ms=3.0, cpu_share=0.2)],
        loaded_seconds=5,
        slo=Slo(),
    )
    assert (merged["loop_lag_p99_ms"], merged["cpu_share"], merged["open_requests"]) == (3.0, 0.8, 4)


@pytest.mark.parametrize("messages", [[], [message()]])
def test_what_nobody_has_said_is_not_made_up(messages: list[dict[str, object]]) -> None:
    merged = merge_live(messages, loaded_seconds=5, slo=Slo())
    assert (merged["loop_lag_p99_ms"], merged["cpu_share"], merged["ttft_p50_ms"]) == (None, None, None)
