"""How many engines a load takes, and what it costs.

Little's law (L = λW) ties what one engine can sustain to the sequences that it has at once. With n of them, a
request needs T seconds of the engine for its prompt and s(n) / n for each of its o further tokens, s(n) being the
time of a decode step. So an engine that is never idle serves

    λ(n) = 1 / (T + o s(n) / n)    requests a second,

each of which waits n / λ(n) for its further tokens: s(n) + n T / o for each, as prompts of others come between.
λ rises with n, so an engine runs as many sequences as its KV cache, max_num_seqs and the SLO allow.

Arrivals are taken as Poisson. Prompts queue for the engine as in M/D/1 (Pollaczek-Khinchine): ρ T / (2 (1 - ρ))
seconds on average, where ρ is the share of time that goes to prompts. Engines are counted for a chosen
utilisation, which leaves room for bursts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tri_serve.errors import UsageError
from tri_serve.plan.facts import ModelFacts, PlanDevice
from tri_serve.plan.result import DemandPlan, MemoryPlan, OpenRange
from tri_serve.plan.roofline import Roofline
from tri_serve.plan.shares import ENDS, Pace, Shares
from tri_serve.plan.speed import engine_roofline, sequences_at_once
from tri_serve.spec.engine import EngineSpec
from tri_serve.spec.slo import Slo

UTILIZATION = 0.7
"""Share of what an engine could serve that it is to serve. A choice: at 0.7 a queue with Poisson arrivals (M/M/1)
is 2.3 requests long on average, at 0.9 it is 9."""

_LEAST_RATE, _MOST_RATE = 1e-6, 1e6
"""Requests a second: one in eleven days, and more than any service has. What follows from them stays finite."""
_MOST_PRICE = 1e9
"""Of a GPU for an hour, in any currency there is."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for."""

    request_rate: float
    """Requests a second."""
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

    def e2e(self, load: Load) -> float:
        return self.ttft + load.further * self.tpot

    def broken(self, load: Load) -> str | None:
        """Which promise of the SLO it breaks, with the numbers; none if it keeps them."""
        promises = (
            ("TTFT", self.ttft, load.slo.ttft),
            ("TPOT", self.tpot, load.slo.tpot),
            ("end to end", self.e2e(load), load.slo.e2e),
        )
        for name, seconds, promised in promises:
            if promised is not None and seconds > promised:
                return f"{name} {1000 * seconds:,.1f} ms, and {1000 * promised:,g} ms is asked"
        return None


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

    def point(self, pace: Pace, sequences: int) -> Point:
        """What it does with so many sequences at once."""
        load = self.load
        prompt = self.roof.prefill_seconds(pace, load.input_len, self.chunk)
        # On average half of the answer is there.
        step = self.roof.decode_seconds(pace, sequences, load.input_len + load.output_len // 2)
        rate = 1 / (prompt + load.further * step / sequences)
        busy = self.utilization * rate * prompt
        waiting = busy * prompt / (2 * (1 - busy))
        # Each step that reads a chunk of the prompt carries the other sequences' tokens too.
        steps = -(-load.input_len // self.chunk)
        return Point(
            sequences=sequences,
            rate=rate,
            ttft=waiting + prompt + steps * step,
            tpot=step + sequences * prompt / load.further if load.further else 0.0,
            prefill_share=rate * prompt,
        )

    def best(self, pace: Pace) -> Point | None:
        """With as many sequences as the SLO allows; none if it allows not even one."""
        best = None
        for sequences in range(1, self.most + 1):
            point = self.point(pace, sequences)
            if point.broken(self.load):
                break
            best = point
        return best

    def replicas(self, point: Point) -> float:
        """Engines that the load takes if each of them does as ``point`` says."""
        return float(max(1, math.ceil(self.load.request_rate / (self.utilization * point.rate))))


def plan_demand(
    model: ModelFacts,
    device: PlanDevice,
    engine: EngineSpec,
    memory: MemoryPlan,
    shares: Shares,
    load: Load,
    *,
    price: float | None = None,
) -> DemandPlan:
    """How many engines ``load`` takes. ``price`` is that of one GPU for an hour, in any currency.

    Raises UsageError if the load is no load, or no request of it is allowed by max_model_len.
    """
    _check(load, memory, price)
    server = Server(
        roof=engine_roofline(model, device, engine, memory),
        load=load,
        chunk=memory.max_num_batched_tokens,
        most=sequences_at_once(memory, load.tokens),
    )
    if server.most < 1:
        return _plan(load, None, _no_room(load, memory), engine, price)
    fast, likely, slow = (server.best(shares.pace(end)) for end in ENDS)
    if fast is None or likely is None:
        alone = server.point(shares.pace("likely"), 1).broken(load)
        return _plan(load, None, f"the SLO: one sequence alone has {alone}", engine, price)
    limit = _limit(server, shares.pace("likely"), likely, memory)
    if slow is None:
        limit += "; if the engine is as slow as it may be, no number of replicas keeps the SLO"
    found = OpenRange(
        low=server.replicas(fast),
        likely=server.replicas(likely),
        high=None if slow is None else server.replicas(slow),
    )
    return _plan(load, found, limit, engine, price)


def _limit(server: Server, pace: Pace, point: Point, memory: MemoryPlan) -> str:
    """What keeps one engine from serving more, for people."""
    most, load = server.most, server.load
    if point.sequences < most:
        more = server.point(pace, point.sequences + 1)
        return f"the SLO: {more.sequences} sequences at once would have {more.broken(load)}"
    if point.prefill_share > 0.5:
        return f"prefill: reading prompts takes {point.prefill_share:.0%} of an engine's time"
    if most == memory.max_num_seqs:
        return f"max_num_seqs: {most} sequences at once"
    return f"KV cache: it holds {most} sequences of {load.tokens:,} tokens"


def _no_room(load: Load, memory: MemoryPlan) -> str:
    return f"KV cache: it holds {max(0, memory.kv_tokens):,} tokens, and one request has {load.tokens:,}"


def _plan(
    load: Load, replicas: OpenRange | None, limit: str, engine: EngineSpec, price: float | None
) -> DemandPlan:
    def cost(per_engine: float) -> OpenRange | None:
        if price is None or replicas is None:
            return None
        each = price * engine.tensor_parallel_size * per_engine
        high = None if replicas.high is None else replicas.high * each
        return OpenRange(low=replicas.low * each, likely=replicas.likely * each, high=high)

    def per_million(tokens_each: int) -> float:
        """Of an hour's price."""
        return 1e6 / (load.request_rate * tokens_each * 3600)

    return DemandPlan(
        request_rate=load.request_rate,
        input_len=load.input_len,
        output_len=load.output_len,
        replicas=replicas,
        limited_by=limit,
        cost_per_hour=cost(1.0),
        cost_per_million_output_tokens=cost(per_million(load.output_len)),
        cost_per_million_tokens=cost(per_million(load.tokens)),
    )


def _check(load: Load, memory: MemoryPlan, price: float | None) -> None:
    if not _LEAST_RATE <= load.request_rate <= _MOST_RATE:
        raise UsageError(
            f"--request-rate: {load.request_rate:g} requests a second is no load; from {_LEAST_RATE:g} to "
            f"{_MOST_RATE:,.0f} is"
        )
    if load.input_len < 1 or load.output_len < 1:
        raise UsageError("--input-len and --output-len: at least 1 token each is needed")
    if load.tokens > memory.max_model_len:
        raise UsageError(
            f"--input-len {load.input_len} and --output-len {load.output_len} are {load.tokens} tokens together; "
            f"max_model_len allows {memory.max_model_len}",
            hint="shorten one of them, or raise model.max_model_len if the model allows it",
        )
    if price is not None and not 0 <= price <= _MOST_PRICE:
        raise UsageError(
            f"--price: {price:g} is no price of a GPU for an hour; from 0 to {_MOST_PRICE:,.0f} is"
        )
