"""What a plan says, typed: the same models make the screen, the JSON, its published schema and the HTML page."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, computed_field


class PlanModel(BaseModel):
    """Frozen, and strict about what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Term(PlanModel):
    """One part of a GPU's memory."""

    name: str
    """``weights``, ``activations``, ``CUDA graphs``, …"""
    nbytes: int
    """Bytes on each GPU."""
    formula: str
    """How it was computed, with the numbers put in."""
    source: str
    """Where the formula is from: the engine's source and version, arithmetic on tensors, or a measurement."""


class MemoryPlan(PlanModel):
    """What lies in the memory of each GPU of one engine."""

    total: int
    """Bytes of the device."""
    free: int
    """Bytes of it that nobody used when it was looked at."""
    requested: int
    """Bytes that the engine takes for itself in all: its share of ``total``."""
    terms: tuple[Term, ...]
    """What lies in ``requested``, the KV cache last: they add up to it unless the KV cache was given a size."""
    outside: tuple[Term, ...] = ()
    """What lies in the rest of ``total``: the driver's own, the CUDA context, and headroom last, which is negative
    by what is missing."""
    kv_bytes: int
    """Bytes for the KV cache; negative by what is missing if not even the weights fit."""
    kv_dtype: str
    """bfloat16 or fp8."""
    kv_bytes_per_token: int
    """Bytes of KV cache that one token takes on each GPU."""
    block_tokens: int
    """Tokens of one block."""
    blocks: int
    """Blocks of the KV cache, as the engine would count them."""
    kv_tokens: int
    """Tokens that the KV cache holds: what the engine prints."""
    max_model_len: int
    """Tokens of the longest sequence that is allowed."""
    full_length_sequences: float
    """Sequences of ``max_model_len`` tokens that the KV cache holds at once."""
    max_num_seqs: int
    """Sequences that the engine runs at once: as the spec says, or what the engine takes by itself."""
    max_num_batched_tokens: int
    """Tokens that one step of the engine has at most, in the same way."""
    recommended: dict[str, int]
    """Values of these two that suit the device, by the option's name: they differ where a change is advised."""
    reasons: dict[str, str] = {}
    """Why these are recommended, by the option's name."""

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def usable(self) -> int:
        """Bytes that CUDA calls the device's total, of which the engine takes its share."""
        return self.total - sum(term.nbytes for term in self.outside if term.name == "driver")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def startable(self) -> int:
        """Bytes that are free for ``requested`` when the engine looks: with less it does not start."""
        return self.free - sum(
            term.nbytes for term in self.outside if term.name in ("driver", "CUDA context")
        )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def starts(self) -> bool:
        """Whether enough is free for the engine to start."""
        return self.startable >= self.requested

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def fits(self) -> bool:
        """Whether one sequence of full length can run."""
        return self.full_length_sequences >= 1

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def users(self) -> int:
        """Sequences of ``max_model_len`` tokens that run at once: whole ones, as KV cache and ``max_num_seqs``
        allow."""
        return min(int(self.full_length_sequences), self.max_num_seqs)


class Range(PlanModel):
    """A prediction: never one number."""

    low: float
    likely: float
    high: float


class OpenRange(PlanModel):
    """A prediction of what is needed, which may have no end."""

    low: float
    likely: float
    high: float | None
    """None: if the engine is as slow as it may be, nothing is enough."""


class DecodePoint(PlanModel):
    """Generation with so many sequences at once, each with so many tokens behind it."""

    batch: int
    context: int
    tpot: Range
    """Seconds from one token of a sequence to its next; ``low`` is the fastest."""
    rate: Range
    """Tokens a second of all sequences together."""
    bound: Literal["memory", "compute"]
    """What the device would be waiting for."""
    fits: bool
    """Whether the KV cache holds so many such sequences."""


class PrefillPoint(PlanModel):
    """Reading a prompt of so many tokens, on an engine that has nothing else to do."""

    tokens: int
    ttft: Range
    """Seconds until the first token."""
    rate: Range
    """Prompt tokens a second."""


class AttainedShare(PlanModel):
    """Which part of what the device could do an engine attains."""

    of: Literal["bandwidth", "arithmetic, generating", "arithmetic, prompts"]
    batch: int | None = None
    """Sequences at once, for the bandwidth; between two of them it is on a straight line over log2."""
    share: Range
    basis: Literal["measured", "beyond what was measured", "prior"]


class SpeedPlan(PlanModel):
    """How fast one engine should be."""

    evidence: Literal["calibrated", "prior"]
    """Whether the attained shares were fitted to measurements of such a device, engine version and quantization."""
    evidence_detail: str
    """Which measurements, or which prior."""
    evidence_file: str | None = None
    """The calibration file that holds them; none: a prior."""
    shares: tuple[AttainedShare, ...] = ()
    """What the prediction is made with."""
    step_overhead: Range | None = None
    """Seconds of each step in which the device waits for the engine."""
    decode: tuple[DecodePoint, ...]
    prefill: tuple[PrefillPoint, ...]
    largest_batch_for_slo: int | None = None
    """Sequences at once up to which a step likely takes no longer than the TPOT of the SLO while no prompt is read;
    none: no TPOT was given, 0: not even one. ``slo`` of the plan counts the prompts of others too."""


class EngineLoad(PlanModel):
    """One engine that is never idle, at the likely pace: averages over its requests."""

    sequences: int
    """At once."""
    prompt_seconds: float
    """To read one prompt, with nothing else to do."""
    step_seconds: float
    """Of one decode step of all sequences."""
    request_rate: float
    """Requests a second that it could serve."""
    ttft: float
    """Seconds, with the wait for other prompts and for the steps between."""
    tpot: float
    """Seconds, with the prompts of others that come between."""
    e2e: float


class SloPlan(PlanModel):
    """Up to how many users at once one engine keeps what is promised."""

    promised: str
    """``ttft=500ms,tpot=50ms``."""
    input_len: int
    output_len: int
    users: Range
    """Sequences at once that keep it, as many as fit at most; 0: not even one. ``low`` if the engine is as slow as
    it may be."""
    most: int
    """Sequences of these lengths that fit at once."""
    breaks: str
    """What one sequence more would likely break, with the numbers; empty if all that fit keep it."""
    engine: EngineLoad | None
    """At the likely number of users; none if that is 0."""


class DemandPlan(PlanModel):
    """What a stated load takes."""

    request_rate: float
    """Requests a second."""
    input_len: int
    output_len: int
    replicas: OpenRange | None
    """Engines; ``low`` if all goes as fast as it may, ``high`` for a promise. None: no number of them suffices."""
    limited_by: str
    """What sets the number: prefill, max_num_seqs, KV cache, or the SLO; with the numbers."""
    utilization: float = 1.0
    """Share of what an engine could serve that it is to serve."""
    engine: EngineLoad | None = None
    """One engine at the likely pace, as the number of engines was worked out; none if no number suffices."""
    price: float | None = None
    """Of one GPU for an hour, as it was given."""
    gpus_each: int = 1
    """GPUs of one engine."""
    cost_per_hour: OpenRange | None = None
    """Of all engines, at the price given for one GPU."""
    cost_per_million_output_tokens: OpenRange | None = None
    """At the price given, at the load stated."""
    cost_per_million_tokens: OpenRange | None = None
    """As above, of prompt and output tokens together."""


class Finding(PlanModel):
    """One thing that a rule found."""

    rule: str
    """The rule's name, as docs/reference/rules.md lists it: ``group-size-tensor-parallel``."""
    severity: Literal["refusal", "warning", "note"]
    message: str
    """What, with the numbers."""
    source: str
    """Where the rule is from."""
    change: dict[str, str] = {}
    """Keys of the spec and the values nearest to what was asked for that work; empty: none does."""
    advice: str = ""
    """What to do where no key of the spec says it."""


class Change(PlanModel):
    """Something that could be asked for instead, and what would come of it."""

    keys: dict[str, str]
    """Keys of the spec and the values to give them; empty, with neither GPU nor preset: nothing brings what is
    asked, which ``effect`` says."""
    gpu: str | None = None
    """Another kind of GPU; none: the same."""
    preset: str | None = None
    """Another preset: the same model stored otherwise; none: the same."""
    effect: str
    """What is different then, with the numbers."""


class ModelSummary(PlanModel):
    """The model, for people and programs."""

    origin: str
    architecture: str
    parameters: int
    layers: int
    quantization: str
    weight_bytes: int
    context: int
    remarks: tuple[str, ...] = ()


class DeviceSummary(PlanModel):
    """The device, for people and programs."""

    name: str
    title: str
    count: int
    """GPUs of one engine: its tensor-parallel size."""
    total: int
    free: int
    bandwidth: float
    flops: float
    compute_capability: str | None
    seen: str
    """``catalogue``, or ``this machine``."""
    sources: dict[str, str] = {}
    """Where each figure is from, by the figure's name."""


class Plan(PlanModel):
    """The whole answer."""

    model: ModelSummary
    device: DeviceSummary
    engine: str
    """Make and version: ``vllm 0.32.0``."""
    kernel: str
    """The kernel that is expected to multiply by the quantised weights: ``Marlin``."""
    findings: tuple[Finding, ...]
    replicas: int = 1
    """Engines that ``fleet.replicas`` asks for; the most of them where their number follows the load."""
    memory: MemoryPlan | None
    """None where a refusal leaves nothing to compute."""
    speed: SpeedPlan | None
    slo: SloPlan | None = None
    """None where no SLO was asked about."""
    demand: DemandPlan | None = None
    changes: tuple[Change, ...] = ()
    """What to change: to make it work if it does not, else to get more of it."""
    command: str | None = None
    """The launch config as one shell command; none if refused."""

    @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated properties
    @property
    def refused(self) -> bool:
        """Whether it cannot work as asked."""
        return any(finding.severity == "refusal" for finding in self.findings)
