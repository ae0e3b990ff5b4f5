"""What one mock engine is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Timing:
    """When an answer's events are due, in seconds after the request's last byte arrived."""

    ttft: float = 0.0
    """Until the first token. 0 answers in the same turn of the loop."""
    itl: float = 0.0
    """Between two tokens. 0 is as fast as the loop turns; each event is still a write of its own."""
    jitter: float = 0.0
    """Share of the gap by which each event may be late, uniform and seeded; 0 to 1."""


@dataclass(frozen=True, slots=True)
class MockSettings:
    """Command line and environment of one mock engine. ``api_key`` never appears in a representation."""

    model: str = "tri-mock"
    timing: Timing = Timing()
    tokens: int = 16
    """Length of an answer when the request names no ``max_tokens``; the last token is the end of sequence."""
    seed: int = 0
    """Of the jitter."""
    max_model_len: int = 8192
    """Prompt and answer together; Tri-21B's own context."""
    fault: str = ""
    """What every request meets; see faults.py for the words."""
    api_key: str | None = field(default=None, repr=False)
    """Bearer token wanted on every route that does work."""
