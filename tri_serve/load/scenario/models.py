"""The typed, frozen models of a scenario file. Every key has a unit; an unknown key is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tri_serve.spec.fields import Seconds, SecondsOrZero, SpecModel, TokenCount, about_key
from tri_serve.spec.slo import Slo

Rate = Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)]
"""Requests a second over all processes."""

Language = Literal["ko", "en", "ja"]

Languages = Annotated[Mapping[Language, Annotated[float, Field(gt=0, le=1_000_000)]], Field(min_length=1)]
"""Language → weight."""


def _korean() -> dict[Language, float]:
    return {"ko": 1.0}


# -- arrivals


class ClosedLoop(SpecModel):
    """So many users, each of whom asks again when it has its answer. It hides a queue: use it for a ceiling."""

    kind: Literal["closed"] = "closed"
    users: Annotated[int, Field(ge=1, le=100_000)]
    stagger: SecondsOrZero = 2.0
    """The users begin one after the other over this time, so that their first prefills do not come at once."""
    think: SecondsOrZero = 0.0
    """A user's pause after an answer; the mean of an exponential distribution."""


class Constant(SpecModel):
    """A request every 1/rate seconds."""

    kind: Literal["constant"] = "constant"
    rate: Rate


class Poisson(SpecModel):
    """Independent users: exponential gaps."""

    kind: Literal["poisson"] = "poisson"
    rate: Rate


class Gamma(SpecModel):
    """Gaps of a gamma distribution; vLLM's ``--burstiness``: 1 is Poisson, less is burstier, more is steadier."""

    kind: Literal["gamma"] = "gamma"
    rate: Rate
    burstiness: Annotated[float, Field(gt=0, le=1_000)] = 1.0


class Ramp(SpecModel):
    """Poisson arrivals whose rate changes evenly from the first to the last."""

    kind: Literal["ramp"] = "ramp"
    from_rate: Annotated[float, Field(ge=0, le=100_000)] = 0.0
    to_rate: Rate


class Step(SpecModel):
    """One step of ``Steps``."""

    rate: Annotated[float, Field(ge=0, le=100_000)]
    seconds: Seconds


class Steps(SpecModel):
    """Poisson arrivals at one rate after another; the steps are repeated until the run ends."""

    kind: Literal["steps"] = "steps"
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=1_000)]

    @model_validator(mode="after")
    def _one_is_a_load(self) -> Steps:
        if not any(step.rate for step in self.steps):
            raise about_key("steps", "every rate is 0, so that nothing would be asked; one above 0 is needed")
        return self


class Spike(SpecModel):
    """Poisson arrivals at a rate, with a higher one for a while."""

    kind: Literal["spike"] = "spike"
    rate: Rate
    spike_rate: Rate
    at: SecondsOrZero
    """Seconds after the window began."""
    seconds: Seconds


Arrivals = Annotated[
    ClosedLoop | Constant | Poisson | Gamma | Ramp | Steps | Spike, Field(discriminator="kind")
]

# -- lengths


class Lengths(SpecModel):
    """Numbers of tokens. One of: ``fixed``; ``min`` and ``max`` (uniform); ``median`` and ``sigma`` (log-normal),
    with ``min`` and ``max`` as its ends."""

    fixed: TokenCount | None = None
    min: TokenCount | None = None
    max: TokenCount | None = None
    median: TokenCount | None = None
    sigma: Annotated[float, Field(gt=0, le=4)] | None = None
    """Standard deviation of the logarithm: 0.5 is a spread of about ×/÷ 1.65."""

    @model_validator(mode="after")
    def _one_form(self) -> Lengths:
        if self.fixed is not None:
            if any(value is not None for value in (self.min, self.max, self.median, self.sigma)):
                raise about_key("fixed", "stands alone; min, max, median and sigma describe a distribution")
            return self
        if self.min is None or self.max is None:
            raise about_key("min", "write fixed, or min and max, or median, sigma, min and max")
        if self.min > self.max:
            raise about_key("min", "must not be above max")
        if (self.median is None) != (self.sigma is None):
            raise about_key("median", "median and sigma come together")
        if self.median is not None and not self.min <= self.median <= self.max:
            raise about_key("median", "must lie between min and max")
        return self


# -- what is asked


class _Part(SpecModel):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    """Shows in reports."""
    weight: Annotated[float, Field(gt=0, le=1_000_000)] = 1.0
    """Share of the requests, against the other parts' weights."""
    route: Literal["chat", "completions"] = "chat"
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0


class _Sized(_Part):
    output: Lengths = Lengths(fixed=128)
    """``max_tokens``."""
    ignore_eos: bool = True
    """The engine goes on to the asked length, so that runs can be compared; a shorter answer is then an error."""


class Written(_Sized):
    """Prompts of exact token lengths, of sentences in the given languages."""

    kind: Literal["written"] = "written"
    input: Lengths
    """Of the whole prompt as the server counts it (``usage.prompt_tokens``): chat template and salt included."""
    languages: Languages = Field(default_factory=_korean)


class SharedPrefix(_Sized):
    """Groups of requests that begin alike (a system prompt), to load the prefix cache on purpose."""

    kind: Literal["shared-prefix"] = "shared-prefix"
    groups: Annotated[int, Field(ge=1, le=100_000)]
    prefix: Lengths
    input: Lengths
    """Of what follows the prefix."""
    languages: Languages = Field(default_factory=_korean)


class Conversations(_Sized):
    """Chats of several turns: each turn sends all that was said before, answers included."""

    kind: Literal["conversations"] = "conversations"
    route: Literal["chat"] = "chat"
    turns: Lengths = Lengths(min=2, max=6)
    """Number of turns (not of tokens)."""
    input: Lengths
    """Of the first user message."""
    follow_up: Lengths = Lengths(min=8, max=64)
    """Of each later user message."""
    think: SecondsOrZero = 0.0
    """Mean pause of the user between turns."""
    languages: Languages = Field(default_factory=_korean)


class Documents(_Sized):
    """Questions about long documents (retrieval-augmented generation): documents first, then the question."""

    kind: Literal["documents"] = "documents"
    documents: Annotated[int, Field(ge=1, le=64)] = 4
    """In each prompt."""
    document: Lengths
    """Tokens of one document."""
    pool: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Different documents there are; the same one can be in several prompts."""
    question: Lengths = Lengths(min=16, max=48)
    languages: Languages = Field(default_factory=_korean)


class Structured(_Sized):
    """Requests that ask for a tool call or for JSON by a schema; the answer is checked against it."""

    kind: Literal["structured"] = "structured"
    route: Literal["chat"] = "chat"
    form: Literal["json-schema", "tools"] = "json-schema"
    ignore_eos: Literal[False] = False
    languages: Languages = Field(default_factory=_korean)


class FromFile(_Part):
    """Prompts of a file: ShareGPT's JSON, or JSON lines with OpenAI request bodies."""

    kind: Literal["file"] = "file"
    path: str
    """Seen from the scenario file's folder."""
    format: Literal["sharegpt", "openai-jsonl"]
    input: Lengths | None = None
    """Takes only items within these lengths; what is left out is counted."""
    output: Lengths | None = None
    """None: as long as the file's own answer (ShareGPT), or its ``max_tokens`` (OpenAI); else 128."""
    ignore_eos: bool = False
    shuffle: bool = True


Part = Annotated[
    Written | SharedPrefix | Conversations | Documents | Structured | FromFile, Field(discriminator="kind")
]


class Golden(SpecModel):
    """Prompts with known answers, mixed in: a server that is fast and wrong is found out."""

    path: str
    """JSON lines of ``{"id", "messages" or "prompt", "max_tokens", "answer"}``, from the scenario file's folder."""
    every: Annotated[int, Field(ge=2, le=1_000_000)] = 50
    """One request in so many."""


class Workload(SpecModel):
    """What is asked, part by part."""

    parts: Annotated[tuple[Part, ...], Field(min_length=1, max_length=64)]
    salt: bool = True
    """Each prompt begins with its own few tokens, so that no run finds the last one's prefixes in the cache."""
    golden: Golden | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> Workload:
        names = [part.name for part in self.parts]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise about_key("parts", f"two parts are named {twice}; reports need to tell them apart")
        return self


class Scenario(SpecModel):
    """One described load."""

    title: Annotated[str, Field(min_length=1, max_length=80)]
    about: str = ""
    """What it stands for."""
    arrivals: Arrivals
    workload: Workload
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 1
    warm_up: SecondsOrZero = 10.0
    """Load before the window, at the same arrivals; not counted."""
    window: Seconds = 60.0
    """What is counted: requests that are scheduled in it."""
    cool_down: SecondsOrZero = 0.0
    """Load after the window, so that its last requests meet the same server as its first."""
    grace: SecondsOrZero = 30.0
    """How long what is still running may take to end, before it is cancelled."""
    requests: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Ends the window after so many requests, if that is sooner. Of a closed loop exactly so many are sent in it,
    and it ends when the last of them has ended."""
    most_open: Annotated[int, Field(ge=1, le=1_000_000)] = 4_096
    """Requests that the client keeps open at once over all processes; what is due beyond is counted as unsent."""
    connect_timeout: Seconds = 10.0
    silence: Seconds = 600.0
    """A stream that says nothing for this long is given up; queueing behind others counts."""
    slo: Slo = Slo()
