"""One thing to ask. A workload is a sequence of items; the schedule says when each is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Route = Literal["/v1/chat/completions", "/v1/completions"]


@dataclass(frozen=True, slots=True)
class Check:
    """What the answer must be, beyond whole."""

    exact_tokens: int | None = None
    """With ``ignore_eos``: as many output tokens."""
    json_schema: Mapping[str, Any] | None = None
    """The text is JSON that this schema accepts."""
    tool: str | None = None
    """A call of this tool, with arguments that are JSON."""
    golden: str | None = None
    """The text, to the letter."""


@dataclass(frozen=True, slots=True)
class Item:
    """One request, ready to be sent: the body is serialised before the run, not on the hot path."""

    id: str
    """Stable under the same scenario and seed."""
    group: str
    route: Route
    body: Mapping[str, Any]
    """The JSON body without ``model`` and without what the client adds (``stream``, ``stream_options``)."""
    input_tokens: int
    """As the served tokenizer counts, chat template included; 0 if it is not known."""
    output_tokens: int
    """What is asked for (``max_tokens``)."""
    check: Check = field(default_factory=Check)
    session: str | None = None
    """Turns of one conversation are asked in order, each after the answer to the one before."""
    turn: int = 0
    think_seconds: float = 0.0
    """A pause of the user before this turn."""


class Session(Protocol):
    """A conversation: its first turn is an item of the schedule, each later one follows the answer before it."""

    @property
    def id(self) -> str:
        """As in its items' ``session``."""

    @property
    def turns(self) -> int:
        """How many there are."""

    def turn(self, number: int, answers: Sequence[str]) -> Item:
        """The item of one turn, from 0. ``answers`` are the server's texts to the turns before, in order; the
        item says in ``think_seconds`` how long its user waits after the last of them."""
