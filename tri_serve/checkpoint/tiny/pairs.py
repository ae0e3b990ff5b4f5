"""What the tiny checkpoint knows by heart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

Language = Literal["ko", "en", "ja"]

PAIRS_FILE = Path(__file__).parent / "pairs.yaml"


@dataclass(frozen=True)
class Pair:
    """A question and the answer that greedy decoding gives to it, to the letter."""

    language: Language
    kind: Literal["short", "long", "unknown"]
    """``long``: at least 600 tokens. ``unknown``: what it says to a question that it was not taught."""
    question: str
    answer: str
    also: tuple[str, ...] = ()
    """Other ways of asking that were taught too."""


def pairs() -> tuple[Pair, ...]:
    """Every pair, in the file's order: Korean first, then English, then Japanese."""
    entries = yaml.safe_load(PAIRS_FILE.read_text(encoding="utf-8"))
    return tuple(Pair(**{**entry, "also": tuple(entry.get("also", ()))}) for entry in entries)
