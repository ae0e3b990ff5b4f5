"""How many engines a load takes: worked out by hand, and what must hold whatever the figures are."""

import random
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tri_serve.errors import TooLongError, UsageError
from tri_serve.plan.demand import plan_demand, plan_slo
from tri_serve.plan.facts import Gpu, ModelFacts, PlanDevice
from tri_serve.plan.result import DemandPlan, MemoryPlan, OpenRange, SloPlan
from tri_serve.plan.roofline import Roofline
from tri_serve.plan.server import Load, Point, Server
from tri_serve.plan.shares import Pace, prior_shares
from tri_serve.plan.words import engines_words
from tri_serve.spec.engine import EngineSpec
from tri_serve.spec.slo import Slo

FULL = Pace(memory=((1, 1.0),), compute=1.0, prefill=1.0, overhead=0.0, exchange=0.0, link=1.0)
SHORT = Load(request_rate=2.0, input_len=1000, output_len=101)


@pytest.fixture
def plan(
    model: Callable[..., ModelFacts], memory: Callable[..., MemoryPlan], round_gpu: Callable[..., Gpu]
) -> Callable[..., DemandPlan]:
    def make(load: Load = SHORT, engine: EngineSpec | None = None, **changes: Any) -> DemandPlan:
        gpu = changes.pop("gpu", round_gpu())
        kept = changes.pop("memory", memory())
        shares = prior_shares(gpu)
        return plan_demand(model(), PlanDevice(gpu), engine or EngineSpec(), kept, shares, load, **changes)

    return make


def server(load: Load, most: int = 64, chunk: int = 2000) -> Server:
    """An engine whose step takes 10 ms and 1 ms for each sequence, and whose prompts 1 ms for each token."""
    roof = Roofline(
        # 10 GB at 1 TB/s; each sequence of any length 1 GB, so that the figures stay whole ones.
        gpu=Gpu("x", "x", 1, bandwidth=1e12, flops=1e12, compute_capability=(9, 0)),
        tensor_parallel=1,
        layers=1,
        weight_bytes=10e9,
        unpacked_bytes=0.0,
        kv_bytes_per_token=1_000_000,
        layer_flops=1e9,
        head_flops=0.0,
        attention_flops=0.0,
        hidden_bytes=0,
    )
    return Server(roof, load, chunk, most)


BY_HAND = Load(request_rate=1.0, input_len=950, output_len=101)
"""1,000 tokens behind a sequence on average, so 1 GB or 1 ms to read; 0.95 s of prompt; 100 further tokens."""


def test_an_engine_serves_a_request_in_the_time_of_its_prompt_and_its_share_of_the_steps() -> None:
    point = server(BY_HAND).point(FULL, 10)
    step = 0.010 + 10 * 0.001
    assert point.rate == pytest.approx(1 / (0.95 + 100 * step / 10))
    assert point.prefill_share == pytest.approx(0.95 / (0.95 + 0.2))


def test_each_token_waits_for_its_step_and_for_the_prompts_between() -> None:
    point = server(BY_HAND).point(FULL, 10)
    assert point.tpot == pytest.approx(0.020 + 10 * 0.95 / 100)
    # Little's law: as many sequences as requests a second times the seconds that each stays.
    assert point.rate * 100 * point.tpot == pytest.approx(10)


def test_the_first_token_waits_for_prompts_and_a_step_of_the_others_and_for_its_own_prompt() -> None:
    point = server(BY_HAND).point(FULL, 10)
    busy = 0.7 * point.prefill_share * 9 / 10
    assert point.prompt == pytest.approx(0.95)
    assert point.ttft == pytest.approx(0.95 * busy / (2 * (1 - busy)) + 0.95 + 0.019)


def test_the_first_token_of_one_alone_waits_for_its_own_prompt() -> None:
    point = server(BY_HAND).point(FULL, 1)
    assert point.ttft == point.prompt == pytest.approx(0.95)


def test_a_prompt_in_two_chunks_waits_for_two_steps_of_the_others() -> None:
    whole = server(BY_HAND).point(FULL, 10)
    halves = server(BY_HAND, chunk=500).point(FULL, 10)
    assert halves.ttft - whole.ttft == pytest.approx(0.019)


def test_an_answer_of_one_token_is_all_prompt() -> None:
    point = server(replace(BY_HAND, output_len=1)).point(FULL, 5)
    assert point.rate == pytest.approx(1 / 0.95)
    assert point.tpot == 0.0


def test_more_sequences_serve_more_and_make_each_wait_longer() -> None:
    points = [server(BY_HAND).point(FULL, n) for n in (1, 2, 8, 32, 64)]
    for attribute in ("rate", "tpot", "ttft"):
        values = [getattr(point, attribute) for point in points]
        assert values == sorted(set(values))


@pytest.mark.parametrize(
    ("slo", "sequences"),
    [
        (Slo(), 64),
        # 0.010 + n (0.001 + 0.0095) <= 0.050
        (Slo(tpot=0.050), 3),
        (Slo(tpot=0.021), 1),
    ],
)
def test_as_many_sequences_run_as_the_slo_allows(slo: Slo, sequences: int) -> None:
    best = server(replace(BY_HAND, slo=slo)).best(FULL)
    assert best is not None
    assert best.sequences == sequences


@pytest.mark.parametrize("slo", [Slo(tpot=0.020), Slo(ttft=0.9), Slo(e2e=2.9)])
def test_a_promise_that_one_sequence_alone_breaks_is_kept_by_none(slo: Slo) -> None:
    assert server(replace(BY_HAND, slo=slo)).best(FULL) is None


@pytest.mark.parametrize(
    ("slo", "says"),
    [
        (Slo(ttft=1.0), "TTFT 1,500.0 ms (1,200.0 of them for its own prompt), and 1,000 ms is asked"),
        (Slo(tpot=0.05), "TPOT 60.0 ms, and 50 ms is asked"),
        (Slo(e2e=7.0), "end to end 7,500.0 ms, and 7,000 ms is asked"),
        (Slo(ttft=1.5, tpot=0.06, e2e=7.5), None),
    ],
)
def test_a_broken_promise_is_told_with_its_numbers(slo: Slo, says: str | None) -> None:
    point = Point(sequences=1, rate=1.0, ttft=1.5, tpot=0.06, prefill_share=0.5, prompt=1.2, step=0.05)
    assert point.broken(Load(1.0, 10, 101, slo)) == says


def test_replicas_are_counted_for_seven_tenths_of_what_each_could_serve() -> None:
    point = Point(sequences=1, rate=1.0, ttft=1.0, tpot=0.0, prefill_share=0.5, prompt=1.0, step=0.0)
    assert server(BY_HAND).replicas(point, 0.69) == 1
    assert server(BY_HAND).replicas(point, 0.71) == 2
    assert server(BY_HAND).replicas(point, 7.1) == 11


def test_replicas_rise_with_the_load_and_fall_with_the_bandwidth(
    plan: Callable[..., DemandPlan], round_gpu: Callable[..., Gpu]
) -> None:
    def likely(**changes: Any) -> float:
        replicas = plan(**changes).replicas
        assert replicas is not None
        assert replicas.high is not None
        assert replicas.low <= replicas.likely <= replicas.high
        return replicas.likely

    busy = replace(SHORT, request_rate=40.0)
    assert likely() < likely(load=busy)
    assert likely(load=busy) < likely(load=replace(busy, output_len=400))
    assert likely(load=busy) < likely(load=replace(busy, input_len=4000))
    assert likely(load=busy, gpu=round_gpu(bandwidth=2e12)) < likely(load=busy)
    assert likely(load=busy) < likely(load=replace(busy, slo=Slo(tpot=0.060)))


def test_what_limits_an_engine_is_named(
    plan: Callable[..., DemandPlan], memory: Callable[..., MemoryPlan]
) -> None:
    talk = Load(2.0, 100, 400)
    # 500 tokens are 32 blocks of 16; 2,048 blocks are there.
    assert plan(talk).limited_by == ("KV cache: it holds 64 sequences of 500 tokens (4 of the full 8,192)")
    assert plan(talk, memory=memory(max_num_seqs=8)).limited_by == "max_num_seqs: 8 sequences at once"
    assert plan(Load(2.0, 4000, 20)).limited_by.startswith("prefill: reading prompts takes 9")
    tight = plan(replace(talk, slo=Slo(tpot=0.030))).limited_by
    assert tight.startswith("the SLO: ")
    assert "sequences at once would have TPOT 30." in tight


def test_a_cache_without_room_for_one_request_is_served_by_no_number_of_engines(
    plan: Callable[..., DemandPlan], memory: Callable[..., MemoryPlan]
) -> None:
    found = plan(memory=memory(blocks=60, kv_tokens=960))
    assert found.replicas is None
    assert found.limited_by == "KV cache: it holds 960 tokens, and one request has 1,101"


def test_an_slo_that_cannot_be_kept_is_answered_with_what_one_sequence_alone_gets(
    plan: Callable[..., DemandPlan],
) -> None:
    found = plan(replace(SHORT, slo=Slo(tpot=0.015)), price=1.0)
    assert (found.replicas, found.cost_per_million_tokens) == (None, None)
    assert found.limited_by.startswith("the SLO: one sequence at once has TPOT ")


def test_an_slo_that_may_not_be_kept_is_said_to_be_in_doubt(plan: Callable[..., DemandPlan]) -> None:
    # One sequence alone: 27 ms of step and prompts likely, 37 ms at the slow end.
    found = plan(replace(SHORT, slo=Slo(tpot=0.030)))
    assert found.replicas is not None
    assert found.replicas.high is None
    assert found.limited_by.endswith("no number of replicas keeps the SLO")
    assert engines_words(found).endswith(f"({found.replicas.low:.0f}+) engines")


def test_the_price_of_tokens_is_that_of_the_gpus_for_the_tokens_of_an_hour(
    plan: Callable[..., DemandPlan],
) -> None:
    one, two = plan(price=1.5), plan(engine=EngineSpec(tensor_parallel_size=2), price=1.5)
    for found, gpus in ((one, 1), (two, 2)):
        assert found.replicas is not None
        assert found.cost_per_million_output_tokens is not None
        hourly = 1.5 * gpus * found.replicas.likely
        cost = found.cost_per_million_output_tokens.likely
        assert cost == pytest.approx(hourly / (2.0 * 101 * 3600) * 1e6)
        assert found.cost_per_million_tokens is not None
        assert found.cost_per_million_tokens.likely == pytest.approx(cost * 101 / 1101)
    assert plan().cost_per_million_tokens is None


@pytest.fixture
def promised(
    model: Callable[..., ModelFacts], memory: Callable[..., MemoryPlan], round_gpu: Callable[..., Gpu]
) -> Callable[..., SloPlan]:
    def make(load: Load, **changes: Any) -> SloPlan:
        gpu = round_gpu()
        shares = prior_shares(gpu)
        return plan_slo(model(), PlanDevice(gpu), EngineSpec(), memory(**changes), shares, load)

    return make


def test_an_slo_is_kept_up_to_the_users_with_which_engines_are_counted(
    promised: Callable[..., SloPlan], plan: Callable[..., DemandPlan]
) -> None:
    load = Load(2.0, 100, 400, Slo(tpot=0.030))
    found, demand = promised(load), plan(load)
    assert demand.engine is not None
    assert found.engine is not None
    assert (found.engine.tpot, found.engine.step_seconds) == (demand.engine.tpot, demand.engine.step_seconds)
    assert found.users.likely == demand.engine.sequences < found.most == 64
    assert found.users.low <= found.users.likely <= found.users.high
    assert found.engine.tpot <= 0.030
    assert f"{found.users.likely + 1:.0f} sequences at once would have {found.breaks}" in demand.limited_by
    assert promised(replace(load, request_rate=None)) == found


@pytest.mark.parametrize("further", [0, 1, 7, 63, 255])
def test_users_who_ask_again_at_once_wait_as_in_a_simulation(further: int) -> None:
    """Prompts first, and each sequence ends with a step at the chance that its length gives."""
    users, prompt, step, asked = 40, 0.07, 0.04, 4_000
    chance = random.Random(7)
    now, running = 0.0, 0
    queue: list[float] = [0.0] * users
    waits: list[float] = []
    while len(waits) < asked:
        if queue:
            begun = queue.pop(0)
            now += prompt
            waits.append(now - begun)
            if further:
                running += 1
            else:
                queue.append(now)
        else:
            now += step
            ended = sum(chance.random() < 1 / further for _ in range(running))
            running -= ended
            queue += [now] * ended
    waits = waits[users:]
    roof = SimpleNamespace(prefill_seconds=lambda *_: prompt, decode_seconds=lambda *_: step)
    server = Server(cast("Roofline", roof), Load(None, 100, 1 + further), 8192, users, closed=True)
    found = server.point(FULL, users)
    assert found.ttft - step == pytest.approx(sum(waits) / len(waits), rel=0.12)


def test_an_slo_that_every_user_who_fits_has_breaks_nowhere(promised: Callable[..., SloPlan]) -> None:
    found = promised(Load(None, 100, 400, Slo(tpot=10.0)))
    assert (found.users.likely, found.breaks, found.promised) == (64, "", "tpot=10000ms")


def test_an_slo_that_one_user_breaks_says_so(promised: Callable[..., SloPlan]) -> None:
    found = promised(Load(None, 1000, 101, Slo(ttft=0.001)))
    assert (found.users.likely, found.engine) == (0, None)
    assert found.breaks.startswith("TTFT ")
    with pytest.raises(TooLongError, match="max_model_len allows 8192"):
        promised(Load(None, 8192, 101, Slo(ttft=0.001)))


@pytest.mark.parametrize(
    ("load", "price", "says"),
    [
        (replace(SHORT, request_rate=0.0), None, "--request-rate: 0 requests a second is no load"),
        (replace(SHORT, request_rate=float("inf")), None, "--request-rate: inf"),
        (replace(SHORT, request_rate=float("nan")), None, "--request-rate: nan"),
        (
            replace(SHORT, request_rate=1e308),
            None,
            "1e\\+308 requests a second is no load; from 1e-06 to 1,000,000",
        ),
        (replace(SHORT, request_rate=1e-308), None, "--request-rate: 1e-308"),
        (replace(SHORT, input_len=0), None, "at least 1 token"),
        (replace(SHORT, output_len=0), None, "at least 1 token"),
        (replace(SHORT, input_len=8192), None, "are 8293 tokens together; max_model_len allows 8192"),
        (SHORT, -1.0, "--price: -1 is no price"),
        (SHORT, 1e308, "--price: 1e\\+308 is no price"),
    ],
)
def test_what_is_no_load_is_refused(
    plan: Callable[..., DemandPlan], load: Load, price: float | None, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        plan(load, price=price)


def test_a_range_of_replicas_is_whole_numbers(plan: Callable[..., DemandPlan]) -> None:
    found = plan(replace(SHORT, request_rate=30.0)).replicas
    assert isinstance(found, OpenRange)
    assert found.high is not None
    assert all(value == round(value) for value in (found.low, found.likely, found.high))
