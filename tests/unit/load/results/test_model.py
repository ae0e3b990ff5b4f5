"""A result as it is written and read again."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from tri_serve.load.results.model import RunResult


def test_a_result_is_read_back_as_it_was_written(make_result):
    for result in (make_result(), make_result(failing=1.0)):
        assert RunResult.model_validate_json(result.model_dump_json()) == result


def test_every_number_of_a_result_is_json(make_result):
    # Infinities and NaNs are written by Python's json and read by few others.
    for result in (make_result(), make_result(failing=1.0)):
        text = json.dumps(result.model_dump(mode="json"), allow_nan=False)
        assert json.loads(text)["verdict"]["level"] == result.verdict.level.value


@pytest.mark.parametrize("change", [{"format": 2}, {"surprise": 1}])
def test_another_format_is_not_read_as_this_one(make_result, change):
    document = json.loads(make_result().model_dump_json()) | change
    with pytest.raises(ValidationError):
        RunResult.model_validate_json(json.dumps(document))


def test_a_result_of_many_requests_stays_small(make_result):
    assert len(make_result(seconds=120.0).model_dump_json()) < 150_000
