"""The base of every model of the spec, and the field types they share."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


class SpecModel(BaseModel):
    """Frozen and strict: an unknown key is an error, and so is a value of another type."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        # A validation error would otherwise quote its input, and engine.env may hold a token.
        hide_input_in_errors=True,
    )


ABOUT_KEY = "about_key"
"""The type of an error that a section's own validator found, and that one of its keys is to answer for."""


def about_key(key: str, words: str) -> PydanticCustomError:
    """What a section's validator raises; ``key`` is dotted and counts from the section."""
    return PydanticCustomError(ABOUT_KEY, "{words}", {"words": words, "key": key})


_LONGEST = 32
"""Characters of a number with a unit; thousands of digits make an infinity, or take long to read."""

DURATION_PATTERN = r"^\d+(\.\d+)?(ms|s|m|h)$"
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0}


def parse_duration(value: object) -> object:
    """``500ms``, ``30s``, ``2m``, ``1h`` as seconds; anything else as it is, for the field to judge."""
    if not isinstance(value, str) or len(value) > _LONGEST or not re.fullmatch(DURATION_PATTERN, value):
        return value
    number = value.rstrip("msh")
    return float(number) * _UNIT_SECONDS[value[len(number) :]]


COUNT_PATTERN = r"^(\d+(\.\d+)?[kmgt]|\d+[KMGT])$"


def parse_count(value: object) -> object:
    """``8k`` as 8,000 and ``8K`` as 8,192; anything else as it is, for the field to judge.

    The meaning is vLLM's own (``human_readable_int``, vLLM 0.32): small letters are decimal and may follow a
    fraction, capitals are binary and may not.
    """
    if not isinstance(value, str) or len(value) > _LONGEST or not re.fullmatch(COUNT_PATTERN, value):
        return value
    number, suffix = value[:-1], value[-1]
    power = "kmgt".index(suffix.lower()) + 1
    return int(float(number) * 1000**power) if suffix.islower() else int(number) * 1024**power


_DurationText = Annotated[str, Field(pattern=DURATION_PATTERN, examples=["500ms", "30s", "2m"])]

Seconds = Annotated[
    float,
    Field(gt=0, le=86_400, allow_inf_nan=False),
    BeforeValidator(
        parse_duration, json_schema_input_type=Annotated[float, Field(gt=0, le=86_400)] | _DurationText
    ),
]
"""A duration: a number of seconds, or text with a unit (``500ms``, ``30s``, ``2m``); at most a day."""

SecondsOrZero = Annotated[
    float,
    Field(ge=0, le=86_400, allow_inf_nan=False),
    BeforeValidator(
        parse_duration, json_schema_input_type=Annotated[float, Field(ge=0, le=86_400)] | _DurationText
    ),
]
"""As ``Seconds``, where 0 means "at once"."""

_CountText = Annotated[str, Field(pattern=COUNT_PATTERN, examples=["8k", "8K"])]

TokenCount = Annotated[
    int,
    Field(ge=1, le=16_777_216),
    BeforeValidator(
        parse_count, json_schema_input_type=Annotated[int, Field(ge=1, le=16_777_216)] | _CountText
    ),
]
"""A number of tokens, or text as vLLM's flags take it: ``8k`` is 8,000 and ``8K`` is 8,192."""

_NO_WORD = re.compile(r"[\s\x00-\x1f\x7f]")
_IMAGE = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:/@\[\]-]*")


def no_flag(value: str) -> str:
    """``value`` if an engine's command line can take it for no flag. Raises ValueError saying why not."""
    if value.startswith("-"):
        raise ValueError("begins with a dash, as only flags do")
    if value.strip() != value:
        raise ValueError("has a blank before or after it")
    return value


def one_word(value: str) -> str:
    """``value`` if it is no flag, and has no blanks. Raises ValueError saying why not."""
    if _NO_WORD.search(value):
        raise ValueError("has a blank in it")
    return no_flag(value)


def image_name(value: str) -> str:
    """``value`` if a container's image can be called so. Raises ValueError saying what a name is made of."""
    if not _IMAGE.fullmatch(no_flag(value)):
        raise ValueError("no name of an image: letters, digits and . _ : / @ - are allowed")
    return value


NoFlag = Annotated[str, AfterValidator(no_flag)]
OneWord = Annotated[str, AfterValidator(one_word)]
ImageName = Annotated[str, AfterValidator(image_name)]

Port = Annotated[int, Field(ge=1, le=65_535)]
"""A TCP port; 0 ("any free one") is not taken, since clients must know where to go."""
