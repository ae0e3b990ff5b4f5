"""What one engine sustains under a load, and how long its requests wait.

Little's law (L = λW) ties what one engine can sustain to the sequences that it has at once. With n of them, a
request needs T seconds of the engine for its prompt and s(n) / n for each of its o further tokens, s(n) being the
time of a decode step. So an engine that is never idle serves

    λ(n) = 1 / (T + o s(n) / n)    requests a second,

each of which waits n / λ(n) for its further tokens: s(n) + n T / o for each, as prompts of others come between.
λ rises with n, so an engine runs as many sequences as its KV cache, max_num_seqs and the SLO allow.

Prompts queue for the engine as in M/D/1 (Pollaczek-Khinchine): ρ T / (2 (1 - ρ)) seconds on average, where ρ is
the share of time that goes to prompts of others. A request meets n - 1 others (the arrival theorem, Reiser and
Lavenberg 1980), so that one alone waits for nothing but its own prompt; each step that reads a part of that carries
a token of each of them.

Where the users are given and not the rate, the engine is never idle and its prompts come in bursts: each of the n
sequences that a decode step serves ends with it at a chance of 1 / o, and whoever asks again meets those that ended
with the same step. Of these (n - 1) / o are before him or behind him with equal chance: he waits (n - 1) T / (2 o).
Without further tokens all others' prompts are before his own: (n - 1) T.

Engines are counted for a chosen utilisation, which leaves room for bursts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tri_serve.plan.result import EngineLoad
from tri_serve.plan.roofline import Roofline
from tri_serve.plan.shares import Pace
from tri_serve.spec.slo import Slo

UTILIZATION = 0.7
"""Share of what an engine could serve that it is to serve. A choice: at 0.7 a queue with Poisson arrivals (M/M/1)
is 2.3 requests long on average, at 0.9 it is 9."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for."""

    request_rate: float | None
    """Requests a second; none: that is not said, and how many engines they take is not asked."""
    input_len: int
    output_len: int
    slo: Slo = field(default_factory=Slo)

    @property
    def tokens(self) -> int:
        """Of one request when it ends."""
        return self.input_len + self.output_len

    @property
    def further(self) -> int:
        """Tokens of the answer after the first, which comes with the prompt's last step."""
        return self.output_len - 1


@dataclass(frozen=True, slots=True)
class Point:
    """One engine that is never idle, with so many sequences at once. Seconds are averages."""

    sequences: int
    rate: float
    """Requests a second."""
    ttft: float
    tpot: float
    prefill_share: float
    """Of the engine's time that goes to prompts."""
    prompt: float
    """Of those seconds of ``ttft``, the request's own prompt."""
    step: float
    """Seconds of one decode step."""

    def e2e(self, load: Load) -> float:
        return self.ttft + load.further * self.tpot

    def broken(self, load: Load) -> str | None:
        """Which promise of the SLO it breaks, with the numbers; none if it keeps them."""
        # What the table of speed says of a user alone.
        own = f" ({1000 * self.prompt:,.1f} of them for its own prompt)" if self.ttft > self.prompt else ""
        promises = (
            ("TTFT", self.ttft, load.slo.ttft, own),
            ("TPOT", self.tpot, load.slo.tpot, ""),
            ("end to end", self.e2e(load), load.slo.e2e, ""),
        )
        for name, seconds, promised, why in promises:
            if promised is not None and seconds > promised:
                return f"{name} {1000 * seconds:,.1f} ms{why}, and {1000 * promised:,g} ms is asked"
        return None

    def engine_load(self, load: Load) -> EngineLoad:
        """The same, for people and programs."""
        return EngineLoad(
            sequences=self.sequences,
            prompt_seconds=self.prompt,
            step_seconds=self.step,
            request_rate=self.rate,
            ttft=self.ttft,
            tpot=self.tpot,
            e2e=self.e2e(load),
        )


@dataclass(frozen=True, slots=True)
class Server:
    """One engine under a load."""

    roof: Roofline
    load: Load
    chunk: int
    """Tokens of a prompt that one step reads at most."""
    most: int
    """Sequences of the load that its limit and its KV cache allow at once; none fits if less than 1."""
    utilization: float = UTILIZATION
    closed: bool = False
    """So many users are always there, who ask again when they are answered; else requests come at random."""

    def point(self, pace: Pace, sequences: int) -> Point:
        """What it does with so many sequences at once."""
        load = self.load
        prompt = self.roof.prefill_seconds(pace, load.input_len, self.chunk)
        # On average half of the answer is there.
        context = load.input_len + load.output_len // 2
        step = self.roof.decode_seconds(pace, sequences, context)
        rate = 1 / (prompt + load.further * step / sequences)
        others = sequences - 1
        steps = -(-load.input_len // self.chunk)
        between = steps * self.roof.decode_seconds(pace, others, context) if others else 0.0
        return Point(
            sequences=sequences,
            rate=rate,
            ttft=self._waiting(prompt, rate, sequences) + prompt + between,
            tpot=step + sequences * prompt / load.further if load.further else 0.0,
            prefill_share=rate * prompt,
            prompt=prompt,
            step=step,
        )

    def _waiting(self, prompt: float, rate: float, sequences: int) -> float:
        """Seconds until the engine begins with a prompt, on average."""
        others, further = sequences - 1, self.load.further
        if self.closed:
            return others * prompt / (2 * further) if further else others * prompt
        busy = self.utilization * rate * prompt * others / sequences
        return busy * prompt / (2 * (1 - busy))

    def best(self, pace: Pace) -> Point | None:
        """With as many sequences as the SLO allows; none if it allows not even one."""
        best = None
        for sequences in range(1, self.most + 1):
            point = self.point(pace, sequences)
            if point.broken(self.load):
                break
            best = point
        return best

    def replicas(self, point: Point, request_rate: float) -> float:
        """Engines that so many requests a second take if each of them does as ``point`` says."""
        return float(max(1, math.ceil(request_rate / (self.utilization * point.rate))))
