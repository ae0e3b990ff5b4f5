"""How many engines a load takes, what it costs, and up to how many users one engine keeps an SLO."""

from __future__ import annotations

from tri_serve.errors import TooLongError, UsageError
from tri_serve.plan.facts import ModelFacts, PlanDevice
from tri_serve.plan.result import DemandPlan, MemoryPlan, OpenRange, Range, SloPlan
from tri_serve.plan.server import UTILIZATION, Load, Point, Server
from tri_serve.plan.shares import ENDS, Pace, Shares
from tri_serve.plan.speed import engine_roofline, sequences_at_once
from tri_serve.spec.engine import EngineSpec

_LEAST_RATE, _MOST_RATE = 1e-6, 1e6
"""Requests a second: one in eleven days, and more than any service has. What follows from them stays finite."""
_MOST_PRICE = 1e9
"""Of a GPU for an hour, in any currency there is."""


def plan_slo(
    model: ModelFacts,
    device: PlanDevice,
    engine: EngineSpec,
    memory: MemoryPlan,
    shares: Shares,
    load: Load,
) -> SloPlan:
    """Up to how many users at once one engine keeps ``load.slo``, whatever the rate of requests.

    Raises UsageError as ``plan_demand`` does.
    """
    check_lengths(load, memory)
    server = _server(model, device, engine, memory, load, closed=True)
    fast, likely, slow = (server.best(shares.pace(end)) for end in ENDS)
    kept = 0 if likely is None else likely.sequences
    breaks = "" if kept >= server.most else server.point(shares.pace("likely"), kept + 1).broken(load) or ""
    return SloPlan(
        promised=str(load.slo),
        input_len=load.input_len,
        output_len=load.output_len,
        users=Range(low=slow.sequences if slow else 0, likely=kept, high=fast.sequences if fast else 0),
        most=server.most,
        breaks=breaks,
        engine=None if likely is None else likely.engine_load(load),
    )


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
    rate = _checked_rate(load)
    check_lengths(load, memory)
    if price is not None and not 0 <= price <= _MOST_PRICE:
        raise UsageError(
            f"--price: {price:g} is no price of a GPU for an hour; from 0 to {_MOST_PRICE:,.0f} is"
        )
    server = _server(model, device, engine, memory, load)
    if server.most < 1:
        return _plan(load, rate, None, _no_room(load, memory), engine, price)
    fast, likely, slow = (server.best(shares.pace(end)) for end in ENDS)
    if fast is None or likely is None:
        alone = server.point(shares.pace("likely"), 1).broken(load)
        return _plan(load, rate, None, f"the SLO: one sequence at once has {alone}", engine, price)
    limit = _limit(server, shares.pace("likely"), likely, memory)
    if slow is None:
        limit += "; if the engine is as slow as it may be, no number of replicas keeps the SLO"
    found = OpenRange(
        low=server.replicas(fast, rate),
        likely=server.replicas(likely, rate),
        high=None if slow is None else server.replicas(slow, rate),
    )
    return _plan(load, rate, found, limit, engine, price, at=likely)


def _server(
    model: ModelFacts,
    device: PlanDevice,
    engine: EngineSpec,
    memory: MemoryPlan,
    load: Load,
    *,
    closed: bool = False,
) -> Server:
    return Server(
        roof=engine_roofline(model, device, engine, memory),
        load=load,
        chunk=memory.max_num_batched_tokens,
        most=sequences_at_once(memory, load.tokens),
        closed=closed,
    )


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
    full = int(memory.full_length_sequences)
    return (
        f"KV cache: it holds {most} sequences of {load.tokens:,} tokens ({full} of the full "
        f"{memory.max_model_len:,})"
    )


def _no_room(load: Load, memory: MemoryPlan) -> str:
    return f"KV cache: it holds {max(0, memory.kv_tokens):,} tokens, and one request has {load.tokens:,}"


def _plan(
    load: Load,
    rate: float,
    replicas: OpenRange | None,
    limit: str,
    engine: EngineSpec,
    price: float | None,
    at: Point | None = None,
) -> DemandPlan:
    def cost(per_engine: float) -> OpenRange | None:
        if price is None or replicas is None:
            return None
        each = price * engine.tensor_parallel_size * per_engine
        high = None if replicas.high is None else replicas.high * each
        return OpenRange(low=replicas.low * each, likely=replicas.likely * each, high=high)

    def per_million(tokens_each: int) -> float:
        """Of an hour's price."""
        return 1e6 / (rate * tokens_each * 3600)

    return DemandPlan(
        request_rate=rate,
        input_len=load.input_len,
        output_len=load.output_len,
        replicas=replicas,
        limited_by=limit,
        utilization=UTILIZATION,
        engine=None if at is None else at.engine_load(load),
        price=price,
        gpus_each=engine.tensor_parallel_size,
        cost_per_hour=cost(1.0),
        cost_per_million_output_tokens=cost(per_million(load.output_len)),
        cost_per_million_tokens=cost(per_million(load.tokens)),
    )


def _checked_rate(load: Load) -> float:
    rate = load.request_rate
    if rate is None or not _LEAST_RATE <= rate <= _MOST_RATE:
        raise UsageError(
            f"--request-rate: {rate or 0:g} requests a second is no load; from {_LEAST_RATE:g} to "
            f"{_MOST_RATE:,.0f} is"
        )
    return rate


def check_lengths(load: Load, memory: MemoryPlan) -> None:
    """Raises UsageError for lengths that are none, and TooLongError for such as max_model_len does not allow."""
    if load.input_len < 1 or load.output_len < 1:
        raise UsageError("--input-len and --output-len: at least 1 token each is needed")
    if load.tokens > memory.max_model_len:
        raise TooLongError(
            f"--input-len {load.input_len} and --output-len {load.output_len} are {load.tokens} tokens together; "
            f"max_model_len allows {memory.max_model_len}",
            hint="shorten one of them, or raise model.max_model_len if the model allows it",
        )
