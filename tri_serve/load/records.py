"""What is kept of one request: times on one clock, counts, and what was wrong with its answer.

Everything that is reported is computed from records (figures/), so what a figure means can be read there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """What became of one scheduled request."""

    OK = "ok"
    """A whole answer that passed every check."""
    UNSENT = "unsent"
    """The client could not send it: too many were open, or its time had passed. Never silently delayed."""
    CONNECT = "connect"
    """No connection, or none in time."""
    STATUS = "status"
    """An HTTP status other than 200."""
    IN_BAND_ERROR = "in_band_error"
    """An error event inside a stream of status 200."""
    CUT = "cut"
    """The connection ended before the answer did: no last chunk, no finish reason or no ``[DONE]``."""
    TIMEOUT = "timeout"
    """Nothing came for longer than the scenario allows."""
    MALFORMED = "malformed"
    """Not HTTP, not server-sent events, or not JSON where JSON is due."""
    EMPTY = "empty"
    """Whole, with a finish reason, and not one token."""
    SHORT = "short"
    """Fewer tokens than ``ignore_eos`` with ``max_tokens`` must give."""
    BAD_TEXT = "bad_text"
    """U+FFFD in the text of an answer that ended by itself or by ``max_tokens``, or not the golden answer."""
    BAD_JSON = "bad_json"
    """JSON was asked for (a schema, a tool call) and is not what came."""
    CANCELLED = "cancelled"
    """Still running when the run ended: neither good nor bad, left out of rates of failure."""


class Phase(StrEnum):
    """Where in the run a request was scheduled."""

    WARM_UP = "warm_up"
    WINDOW = "window"
    COOL_DOWN = "cool_down"


@dataclass(slots=True)
class Record:
    """One request. All times are ns on CLOCK_MONOTONIC (``time.perf_counter_ns``), 0 where it did not happen."""

    index: int
    """Its number in the schedule of the whole run, over all processes."""
    item: str
    """Which item of the workload it was (its id)."""
    group: str = ""
    """The part of the workload that it belongs to (``mix`` name, golden, …)."""
    phase: Phase = Phase.WINDOW
    outcome: Outcome = Outcome.CANCELLED
    detail: str = ""
    """One line of what was wrong; never a prompt, never generated text."""
    status: int = 0
    """HTTP status; 0 without one."""
    request_id: str = ""
    """The answer's ``x-request-id``, for looking it up in logs."""
    replica: str = ""
    """The answer's ``x-tri-replica``: which engine behind a gateway of tri-serve answered."""
    reused: bool = False
    """Sent on a connection that had been used before."""

    scheduled: int = 0
    """When it was due (open loop), or when its user became free for it (closed loop)."""
    dispatched: int = 0
    """When the client began with it."""
    sent: int = 0
    """Right before its first byte was written (TLS and connect are over). vLLM's benchmark starts its clock a
    little earlier, before aiohttp renders the request and takes a connection."""
    head: int = 0
    """The answer's head is complete."""
    first_choice: int = 0
    """The first event with non-empty ``choices``: vLLM's first token (in chat the role chunk)."""
    first_token: int = 0
    """The first event that bears a token: content, reasoning or a tool call."""
    last_choice: int = 0
    """The last event with non-empty ``choices``."""
    last: int = 0
    """The last event before ``[DONE]``, the usage event included; for a whole answer, its end."""
    done: int = 0
    """The answer's last byte."""

    event_times: list[int] = field(default_factory=list)
    """When each event with non-empty ``choices`` came, in order."""
    event_tokens: list[int] = field(default_factory=list)
    """Tokens in each of them: from token ids if the server sends them, else 1 for one that bears text, else 0."""
    input_tokens: int = 0
    """``usage.prompt_tokens``; what was intended is ``intended_input_tokens``."""
    output_tokens: int = 0
    """``usage.completion_tokens``; without it the sum of ``event_tokens``, and ``usage_reported`` is false."""
    cached_tokens: int = 0
    """``usage.prompt_tokens_details.cached_tokens``."""
    usage_reported: bool = False
    intended_input_tokens: int = 0
    intended_output_tokens: int = 0
    replacements: int = 0
    """U+FFFD in a text that is not judged: under ``ignore_eos`` a model goes on after its end, in bytes that may be
    no characters."""
    finish_reason: str = ""
    bytes_received: int = 0
    chat: bool = True
    """Chat completions, or completions. (Up to vLLM 0.29 its end-to-end time had the usage event in chat only.)"""

    @property
    def ok(self) -> bool:
        """Whether it counts as answered."""
        return self.outcome is Outcome.OK
