"""What goes out when: the schedule is a pure function of the request and the timing."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from tri_serve.mock.ask import Ask
from tri_serve.mock.faults import Fault, parse_fault
from tri_serve.mock.rendering import render_stream
from tri_serve.mock.script import LAST_CHUNK, Act, Step, stream_script, whole_script
from tri_serve.mock.settings import Timing
from tri_serve.mock.text import Prompt

ASK = Ask(
    dialect="chat",
    request_id="chatcmpl-1",
    created=1,
    model="m",
    prompt=Prompt(b"hi"),
    length=4,
    finish="length",
    stream=True,
    include_usage=False,
    token_ids=False,
    fault=Fault(),
)
PACED = Timing(ttft=0.1, itl=0.02)
# The role event, four tokens, [DONE].
EVENTS = 6


def play(words: str, timing: Timing = PACED, rng: random.Random | None = None) -> list[Step]:
    ask = replace(ASK, fault=parse_fault(words))
    return list(stream_script(ask, render_stream(ask), timing, rng, lambda: None))


def test_tokens_are_due_on_an_absolute_grid() -> None:
    dues = [due for due, _ in play("")]
    assert dues == pytest.approx([0.1, 0.1, 0.12, 0.14, 0.16, 0.16, 0.16, 0.16])


def test_jitter_is_the_same_for_the_same_seed_and_never_early_nor_a_whole_gap_late() -> None:
    timing = replace(PACED, jitter=1.0)
    dues = [due for due, _ in play("", timing, random.Random(5))]
    assert dues == [due for due, _ in play("", timing, random.Random(5))]
    assert dues != [due for due, _ in play("", timing, random.Random(6))]
    first = dues[1]
    assert all(0 <= due - first - k * 0.02 <= 0.02 for k, due in enumerate(dues[1:5]))
    assert all(a <= b for a, b in pairwise(dues))


def test_each_event_is_a_chunk_of_its_own() -> None:
    steps = play("")
    chunks = [data for _, data in steps if isinstance(data, bytes)]
    assert len(chunks) == EVENTS + 1
    assert chunks[-1] == LAST_CHUNK
    assert all(chunk.endswith(b"\n\n\r\n") for chunk in chunks[:-1])
    assert steps[-1][1] is Act.FINISH


def test_coalesce_puts_events_together_and_changes_no_byte_of_them() -> None:
    def body(steps: list[Step]) -> bytes:
        return b"".join(data.split(b"\r\n", 1)[1][:-2] for _, data in steps if isinstance(data, bytes))

    together = play("coalesce=4")
    assert len(together) == 2 + 2  # four events, two events, last chunk, finish
    assert body(together) == body(play(""))


def test_split_writes_the_same_bytes_in_more_pieces() -> None:
    def wire(steps: list[Step]) -> list[bytes]:
        return [data for _, data in steps if isinstance(data, bytes)]

    assert b"".join(wire(play("split"))) == b"".join(wire(play("")))
    assert len(wire(play("split"))) > 2 * len(wire(play("")))


@pytest.mark.parametrize(
    ("words", "act"),
    [
        ("reset-after=3", Act.RESET),
        ("close-after=3", Act.CLOSE),
        ("stall-after=3", Act.STALL),
        ("die-after=3", Act.EXIT),
    ],
)
def test_a_cut_comes_after_its_count_of_events(words: str, act: Act) -> None:
    steps = play(words)
    assert [step[1] for step in steps[:3]] == [step[1] for step in play("")[:3]]
    assert steps[3][1] is act
    assert len(steps) == 4


def test_a_cut_inside_an_event_sends_a_part_of_its_bytes() -> None:
    steps, whole = play("cut-inside=2"), play("")
    part, full = steps[1][1], whole[1][1]
    assert isinstance(part, bytes)
    assert isinstance(full, bytes)
    assert full.startswith(part)
    assert 0 < len(part) < len(full)
    assert steps[2][1] is Act.RESET


def test_an_answer_that_is_not_streamed_comes_when_its_last_token_is_due() -> None:
    assert list(whole_script(ASK, b"head", b"body", PACED)) == [
        (pytest.approx(0.16), b"headbody"),
        (pytest.approx(0.16), Act.FINISH),
    ]
