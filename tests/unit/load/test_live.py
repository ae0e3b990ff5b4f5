"""What a person sees while a load runs."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.text import Text

from tri_serve.load.live import LiveView, PlainView, plain_line, screen
from tri_serve.load.progress import Progress, Stage

RUNNING = Progress(
    stage="window",
    elapsed=41,
    total=80,
    scenario="chat-ko",
    processes=2,
    open_requests=24,
    scheduled=439,
    completed=412,
    failed=3,
    unsent=1,
    outcomes={"cut": 2, "in_band_error": 1, "unsent": 1},
    target_rate=5,
    requests_per_second=4.93,
    output_tokens_per_second=2310.4,
    ttft_p50_ms=84.4,
    ttft_p99_ms=312,
    tpot_p50_ms=8.21,
    tpot_p99_ms=34,
    itl_p99_ms=48,
    e2e_p50_ms=2310,
    e2e_p99_ms=123_456,
    goodput_share=0.973,
    dispatch_lag_p99_ms=0.4,
    loop_lag_p99_ms=2.8,
    cpu_share=0.95,
)


def changed(**values: object) -> Progress:
    return RUNNING.model_copy(update=values)


def shown(lines: list[Text]) -> list[str]:
    return [line.plain.rstrip() for line in lines]


def test_a_running_load_on_80_columns() -> None:
    trail = [changed(output_tokens_per_second=100.0 * n, ttft_p50_ms=80.0 + n) for n in range(1, 21)]
    assert shown(screen(RUNNING, trail, 77)) == [
        "chat-ko  window  ━━━━━━━━━━━━━━━━━────────────────  0:41 of 1:20, 0:39 left",
        "",
        "requests     412 answered   3 failed   1 unsent   24 open",
        "rate         4.93 of 5 requests/s   2,310 tok/s   97.3% within the SLO",
        "",
        "                    p50       p99",
        "TTFT              84 ms    312 ms",
        "TPOT             8.2 ms     34 ms",
        "ITL                   -     48 ms",
        "end to end       2.31 s     123 s",
        "",
        "tok/s        ▁▁▁▂▂▂▃▃▄▄▄▅▅▆▆▆▇▇██                  at most 2,000",
        "TTFT p50     ▆▇▇▇▇▇▇▇▇▇▇▇▇███████                  at most 100 ms",
        "",
        "not ok       2 cut   1 in band error   1 unsent",
        "",
        "this client  begun 0.4 ms late   loop 2.8 ms (p99)   95% CPU   2 processes",
    ]


@pytest.mark.parametrize("width", [40, 77, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    longest = changed(
        scenario="부하시험-" * 12,
        note="a long note " * 20,
        elapsed=86_000,
        total=90_000,
        completed=123_456_789,
        failed=12_345_678,
        outcomes={f"outcome_{n}": 1_000_000 for n in range(12)},
    )
    trail = [longest] * 300
    assert max(line.cell_len for line in screen(longest, trail, width)) <= width


def test_a_closed_loop_and_an_empty_window_have_no_figures_made_up() -> None:
    begun = Progress(stage="window", elapsed=0.2, total=60, scenario="smoke", scheduled=1, open_requests=1)
    text = "\n".join(shown(screen(begun, [begun], 77)))
    assert "requests     0 answered   0 failed   0 unsent   1 open" in text
    assert "rate         -" in text
    assert "TTFT                  -         -" in text
    assert "end to end" not in text
    assert "of 0" not in text
    assert "SLO" not in text


def test_preparing_says_what_is_done_and_nothing_else() -> None:
    preparing = Progress(stage="preparing", scenario="chat-ko", note="making 600 prompts")
    assert shown(screen(preparing, [], 77)) == ["chat-ko  preparing", "             making 600 prompts"]


@pytest.mark.parametrize("stage", ["ending", "reporting"])
def test_after_the_window_what_is_still_open_is_shown_in_place_of_time_left(stage: Stage) -> None:
    (head, *_) = shown(screen(changed(stage=stage, elapsed=83), [], 77))
    assert head.endswith("1:23, 24 open")
    assert "left" not in head


def styles(progress: Progress) -> dict[str, str]:
    line = screen(progress, [], 77)[-1]
    return {line.plain[span.start : span.end]: str(span.style) for span in line.spans}


def test_the_clients_own_figures_have_the_colour_of_the_verdict_they_lead_to() -> None:
    seen = styles(RUNNING)
    assert seen["begun 0.4 ms late"] == "green"
    assert seen["loop 2.8 ms (p99)"] == "yellow"
    assert seen["95% CPU"] == "red"


def test_the_last_state_stays_on_the_terminal() -> None:
    file = io.StringIO()
    with LiveView(Console(file=file, force_terminal=True, width=80, color_system=None)) as view:
        view.show(changed(completed=1))
        view.show(RUNNING)
    last = re.split(r"\x1b\[2K(?:\x1b\[1A\x1b\[2K)*", file.getvalue())[-1]
    assert "412 answered" in last


def test_a_pipe_gets_a_line_at_each_stage_and_every_ten_seconds() -> None:
    said: list[str] = []
    now = [0.0]
    with PlainView(said.append, lambda: now[0]) as view:
        for second in range(25):
            now[0] = float(second)
            view.show(changed(stage="warm-up" if second < 3 else "window", elapsed=float(second)))
    assert [line.split("s")[0].strip() for line in said] == ["0", "3", "13", "23"]
    assert said[0].startswith(
        "     0 s  warm-up: 412 answered, 3 failed, 1 unsent, 24 open; TTFT p50 84 ms p99 312 ms"
    )


def test_a_plain_line_without_figures_is_the_stage_alone() -> None:
    assert plain_line(Progress(stage="preparing")) == "     0 s  preparing"
    assert plain_line(Progress(stage="preparing", note="tokens")) == "     0 s  preparing: tokens"
