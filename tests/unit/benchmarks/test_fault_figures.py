"""Percentiles and tables of the fault scenarios."""

from __future__ import annotations

import math

import pytest

from benchmarks.faults.figures import WIDTH, percentile, seconds, sentence, spread, table


def test_a_percentile_is_a_value_that_was_measured():
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0
    assert percentile([4.0, 1.0, 3.0, 2.0], 1.0) == 4.0
    assert percentile([1.0], 0.0) == 1.0
    assert math.isnan(percentile([], 0.5))


def test_a_spread_of_nothing_is_no_number():
    assert spread([]) == {"count": 0, "min": None, "median": None, "max": None}
    assert spread([3.0, 1.0]) == {"count": 2, "min": 1.0, "median": 2.0, "max": 3.0}


@pytest.mark.parametrize(
    ("value", "words"), [(12.345, "12.3 s"), (0.0042, "4.2 ms"), (None, "–"), (math.nan, "–")]
)
def test_seconds_are_said_in_a_fitting_unit(value, words):
    assert seconds(value) == words


def test_a_table_is_markdown_with_its_figures_to_the_right():
    assert table(["what", "n"], [["cut", 0], ["whole", 12]]) == (
        "| what  |   n |\n| ----- | --: |\n| cut   |   0 |\n| whole |  12 |"
    )


def test_a_table_that_no_terminal_shows_is_refused():
    with pytest.raises(ValueError, match="columns"):
        table(["a"], [["x" * WIDTH]])


def test_sentences_are_as_wide_as_tables():
    assert max(map(len, sentence("word " * 60).splitlines())) <= WIDTH
