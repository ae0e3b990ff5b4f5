"""How fast an engine should be: figures worked out by hand, and what must hold whatever the figures are."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from tri_serve.checkpoint.quantization import QuantizationFacts
from tri_serve.plan.catalogue import load_catalogue
from tri_serve.plan.facts import Gpu, ModelFacts, PlanDevice
from tri_serve.plan.result import MemoryPlan, Range, SpeedPlan
from tri_serve.plan.roofline import Roofline, roofline
from tri_serve.plan.shares import Shares, prior_shares
from tri_serve.plan.speed import largest_batch, plan_speed, sequences_at_once
from tri_serve.spec.engine import EngineSpec

Models = Callable[..., ModelFacts]
Memories = Callable[..., MemoryPlan]
Gpus = Callable[..., Gpu]

AWQ_READ = 12_654_315_520 - 124_416 * 5_120 * 2
"""All tensors but the embedding, bf16."""
KV = 204_800
BNB = QuantizationFacts(method="bitsandbytes", bits=4, layout="nf4")


def certain(value: float) -> Range:
    return Range(low=value, likely=value, high=value)


def ideal(**changes: object) -> Shares:
    """All of the device, and nothing but it."""
    fields = {
        "memory": ((1, certain(1.0)),),
        "compute": certain(1.0),
        "prefill": certain(1.0),
        "overhead": certain(0.0),
        "exchange": certain(0.0),
        "link": certain(1.0),
        "evidence": "prior",
        "detail": "a test",
    }
    return Shares(**fields | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("l4", (26, 184, 531)),
        ("l40s", (75, 529, 1528)),
        ("a100-80", (176, 1249, 3607)),
        ("h100", (289, 2052, 5926)),
        ("h200", (414, 2941, 8490)),
    ],
)
def test_no_engine_can_generate_faster_than_it_reads(
    model: Models, name: str, rates: tuple[int, int, int]
) -> None:
    gpu = load_catalogue()[name]
    roof = roofline(model(), gpu, 1, KV)
    pace = ideal().pace("likely")
    for batch, rate in zip((1, 8, 32), rates, strict=True):
        by_hand = batch * gpu.bandwidth / (AWQ_READ + batch * 1024 * KV)
        assert batch / roof.decode_seconds(pace, batch, 1024) == pytest.approx(by_hand)
        assert round(by_hand) == rate


def test_a_step_reads_every_weight_but_the_embedding_and_the_cache_of_every_sequence(
    model: Models, round_gpu: Gpus
) -> None:
    work = roofline(model(), round_gpu(), 1, KV).decode(batch=3, context=100)
    assert work.nbytes == AWQ_READ + 3 * 100 * KV


def test_a_tied_head_is_read_though_it_is_the_embedding(model: Models, round_gpu: Gpus) -> None:
    untied = roofline(model(), round_gpu(), 1, KV).decode(1, 0)
    tied = roofline(model(tie_word_embeddings=True), round_gpu(), 1, KV).decode(1, 0)
    assert tied == untied


def test_a_token_takes_two_operations_per_weight_and_four_per_element_attended_to(
    model: Models, round_gpu: Gpus
) -> None:
    roof = roofline(model(), round_gpu(), 1, KV)
    # Every weight but the embedding and the norms, which do not multiply matrices: 40.18 GFLOP.
    matrices = 20_725_519_360 - 124_416 * 5_120 - 81 * 5_120
    assert roof.decode(1, 0).flops == 2 * matrices == 40_176_189_440
    assert roof.decode(1, 1000).flops - roof.decode(1, 0).flops == 4 * 1000 * 40 * 32 * 160


def test_a_prompt_needs_the_head_for_its_last_token_alone(model: Models, round_gpu: Gpus) -> None:
    roof = roofline(model(), round_gpu(), 1, KV)
    layers = 40_176_189_440 - 2 * 124_416 * 5_120
    attention = 4 * 40 * 32 * 160
    assert roof.prefill(2).flops == 2 * layers + 2 * 124_416 * 5_120 + (1 + 2) * attention
    assert roof.prefill(2, before=10).flops - roof.prefill(2).flops == 2 * 10 * attention


def test_time_to_first_token_is_arithmetic_at_its_share(
    model: Models, round_gpu: Gpus, memory: Memories
) -> None:
    shares = ideal(prefill=Range(low=0.4, likely=0.5, high=0.8))
    plan = speed(model(), round_gpu(), memory(), shares, prompts=(1000,))
    flops = 1000 * (40_176_189_440 - 1_274_019_840) + 1_274_019_840 + 500_500 * 819_200
    ttft = plan.prefill[0].ttft
    assert ttft.low == pytest.approx(flops / 0.8e14)
    assert ttft.likely == pytest.approx(flops / 0.5e14)
    assert ttft.high == pytest.approx(flops / 0.4e14)
    assert plan.prefill[0].rate.likely == pytest.approx(1000 / ttft.likely)


def test_a_prompt_longer_than_a_chunk_takes_the_steps_of_its_chunks(model: Models, round_gpu: Gpus) -> None:
    roof = roofline(model(), round_gpu(), 1, KV)
    pace = ideal(overhead=certain(1.0)).pace("likely")
    whole = roof.prefill_seconds(pace, 3000, chunk=4096)
    cut = roof.prefill_seconds(pace, 3000, chunk=1024)
    # Two steps more, and the head twice more.
    assert cut - whole == pytest.approx(2.0 + 2 * 1_274_019_840 / 1e14)


def test_two_gpus_halve_the_work_and_pay_for_the_exchange(model: Models, round_gpu: Gpus) -> None:
    one = roofline(model(), round_gpu(), 1, KV).decode(4, 0)
    two = roofline(model(), round_gpu(), 2, KV // 2).decode(4, 0)
    norms = 81 * 5_120 * 2
    assert two.nbytes == (one.nbytes - norms) / 2 + norms
    assert two.flops == one.flops / 2
    assert (one.exchanges, one.exchanged_bytes) == (0, 0)
    # 80 all-reduces and the embedding; a ring of two sends every byte once.
    assert (two.exchanges, two.exchanged_bytes) == (81, 81 * 4 * 5_120 * 2)


def test_an_exchange_takes_its_latency_and_its_bytes(model: Models, round_gpu: Gpus) -> None:
    roof = roofline(model(), round_gpu(link=1e10), 2, KV // 2)
    free, dear = ideal().pace("likely"), ideal(exchange=certain(1e-3), link=certain(0.5)).pace("likely")
    sent = 81 * 4 * 5_120 * 2
    extra = roof.decode_seconds(dear, 4, 0) - roof.decode_seconds(free, 4, 0)
    assert extra == pytest.approx(81e-3 + sent / 0.5e10 - sent / 1e10)


def test_a_batch_of_bitsandbytes_unpacks_its_weights_first(model: Models, round_gpu: Gpus) -> None:
    roof = roofline(model(BNB), round_gpu(), 1, KV)
    # 2 bytes each, written and read, of the weights of all layers.
    matrices = 40 * (5120 * (5120 + 1280 + 1280 + 5120) + 3 * 5120 * 27_392)
    assert roof.decode(2, 0).nbytes - roof.decode(1, 0).nbytes == 2 * 2 * matrices


def speed(model: ModelFacts, gpu: Gpu, memory: MemoryPlan, shares: Shares, **changes: object) -> SpeedPlan:
    engine = changes.pop("engine", EngineSpec())
    return plan_speed(model, PlanDevice(gpu), engine, memory, shares, **changes)  # type: ignore[arg-type]


def test_the_prior_says_between_45_and_75_percent_of_the_bandwidth_for_few_sequences(
    model: Models, round_gpu: Gpus, memory: Memories
) -> None:
    plan = speed(model(), round_gpu(), memory(), prior_shares(round_gpu()), batches=(1,), contexts=(1024,))
    reading = (AWQ_READ + 1024 * KV) / 1e12
    tpot = plan.decode[0].tpot
    assert tpot.low == pytest.approx(reading / 0.75)
    assert tpot.likely == pytest.approx(reading / 0.6 + 0.0005)
    assert tpot.high == pytest.approx(reading / 0.45 + 0.0015)
    assert plan.evidence == "prior"


@pytest.mark.parametrize(("batch", "share"), [(1, 0.6), (8, 0.6), (16, 0.55), (32, 0.5), (256, 0.5)])
def test_the_share_of_bandwidth_falls_evenly_from_8_to_32_sequences(batch: int, share: float) -> None:
    assert prior_shares(load_catalogue()["l4"]).pace("likely").memory_at(batch) == pytest.approx(share)


def test_many_sequences_wait_for_arithmetic_at_its_share(
    model: Models, round_gpu: Gpus, memory: Memories
) -> None:
    gpu = round_gpu(flops=1e13)
    plan = speed(model(), gpu, memory(), prior_shares(gpu), batches=(1, 64), contexts=(1,))
    assert [point.bound for point in plan.decode] == ["memory", "compute"]
    flops = 64 * (40_176_189_440 + 819_200)
    assert plan.decode[1].tpot.likely == pytest.approx(flops / 0.6e13 + 0.0005)


DEVICES = ("l4", "a10", "rtx-4090", "l40s", "a100-40", "a100-80", "h100", "h200")


def roofs(model: ModelFacts) -> dict[str, Roofline]:
    catalogue = load_catalogue()
    return {name: roofline(model, catalogue[name], 1, KV) for name in DEVICES}


@pytest.mark.parametrize("end", ["fast", "likely", "slow"])
@pytest.mark.parametrize("context", [1, 1024, 8192])
def test_more_sequences_never_lower_the_rate_of_all_nor_shorten_a_step(
    model: Models, context: int, end: str
) -> None:
    for name, roof in roofs(model()).items():
        pace = prior_shares(roof.gpu).pace(end)  # type: ignore[arg-type]
        steps = {batch: roof.decode_seconds(pace, batch, context) for batch in range(1, 257)}
        for fewer, more in pairwise(steps):
            assert steps[fewer] < steps[more], name
            # Where arithmetic is all that counts, both rates are the same but for rounding.
            assert fewer / steps[fewer] <= more / steps[more] * (1 + 1e-12), name


def test_more_bandwidth_or_more_arithmetic_never_makes_anything_slower(
    model: Models, round_gpu: Gpus
) -> None:
    pace = prior_shares(round_gpu()).pace("likely")
    plain = roofline(model(), round_gpu(), 1, KV)
    wide = roofline(model(), round_gpu(bandwidth=2e12), 1, KV)
    strong = roofline(model(), round_gpu(flops=2e14), 1, KV)
    for batch in (1, 8, 64, 512):
        step = plain.decode_seconds(pace, batch, 512)
        assert wide.decode_seconds(pace, batch, 512) <= step
        assert strong.decode_seconds(pace, batch, 512) <= step
    assert wide.decode_seconds(pace, 1, 512) < plain.decode_seconds(pace, 1, 512)
    assert strong.prefill_seconds(pace, 2048, 2048) < plain.prefill_seconds(pace, 2048, 2048)


def test_a_range_is_in_order(model: Models, memory: Memories) -> None:
    for gpu in load_catalogue().values():
        plan = speed(model(), gpu, memory(), prior_shares(gpu))
        ranges = [value for point in plan.decode for value in (point.tpot, point.rate)]
        ranges += [value for point in plan.prefill for value in (point.ttft, point.rate)]
        assert all(0 < value.low < value.likely < value.high for value in ranges)


def test_what_the_cache_cannot_hold_is_said_not_to_fit(
    model: Models, round_gpu: Gpus, memory: Memories
) -> None:
    shares = prior_shares(round_gpu())
    plan = speed(model(), round_gpu(), memory(), shares, batches=(4, 5), contexts=(8192,))
    # 2,048 blocks; 512 of them are one sequence of 8,192 tokens.
    assert [point.fits for point in plan.decode] == [True, False]


def test_sequences_at_once_are_those_of_whole_blocks_and_of_the_engines_limit(memory: Memories) -> None:
    assert sequences_at_once(memory(), 17) == 256
    assert sequences_at_once(memory(), 160) == 204
    assert sequences_at_once(memory(), 161) == 186
    assert sequences_at_once(memory(max_num_seqs=12), 160) == 12


def test_the_largest_batch_is_the_last_that_keeps_the_target(model: Models, round_gpu: Gpus) -> None:
    roof = roofline(model(), round_gpu(), 1, KV)
    pace = prior_shares(round_gpu()).pace("likely")
    batch = largest_batch(roof, pace, 1024, 256, tpot=0.03)
    assert roof.decode_seconds(pace, batch, 1024) <= 0.03 < roof.decode_seconds(pace, batch + 1, 1024)
    assert largest_batch(roof, pace, 1024, batch - 1, tpot=0.03) == batch - 1
    assert largest_batch(roof, pace, 1024, 256, tpot=0.001) == 0


def test_a_plan_without_a_target_names_no_batch(model: Models, round_gpu: Gpus, memory: Memories) -> None:
    shares = prior_shares(round_gpu())
    assert speed(model(), round_gpu(), memory(), shares).largest_batch_for_slo is None
    kept = speed(model(), round_gpu(), memory(), shares, tpot_slo=10.0, slo_context=8192)
    assert kept.largest_batch_for_slo == 4


def test_the_prior_of_a_cpu_is_called_rough() -> None:
    assert "rough" in prior_shares(load_catalogue()["cpu"]).detail
