"""Faults are words with values; a wrong one is named."""

from __future__ import annotations

import pytest

from tri_serve.errors import UsageError
from tri_serve.mock.faults import Fault, parse_fault
from tri_serve.mock.settings import Timing


def test_no_words_are_no_fault() -> None:
    assert parse_fault("") == Fault()


def test_words_are_joined_by_commas() -> None:
    assert parse_fault("reset-after=3, split,status=503") == Fault(reset_after=3, split=True, status=503)


def test_a_count_without_a_value_is_one() -> None:
    assert parse_fault("cut-inside") == Fault(cut_inside=1)


@pytest.mark.parametrize(
    "text",
    [
        "status=200",
        "reset-after=-1",
        "coalesce=0",
        "finish=maybe",
        "split=1",
        "itl-ms=fast",
        "lie-length=x",
        "tokens=0",
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_word(text: str) -> None:
    with pytest.raises(UsageError, match=text.partition("=")[0]):
        parse_fault(text)


def test_words_go_on_top_of_another_fault() -> None:
    assert parse_fault("itl-ms=5,status=500", Fault(split=True, status=503)) == Fault(
        split=True, itl_ms=5, status=500
    )


def test_an_unknown_word_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="reset-before") as caught:
        parse_fault("explode")
    assert "'explode'" in str(caught.value)


def test_a_request_overrides_only_the_timing_that_it_names() -> None:
    assert parse_fault("itl-ms=5").timing(Timing(ttft=0.1, itl=0.02)) == Timing(ttft=0.1, itl=0.005)
