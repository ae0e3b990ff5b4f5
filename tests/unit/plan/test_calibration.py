"""Shares fitted to measurements: those that made the measurements come out again."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tri_serve.checkpoint.quantization import QuantizationFacts
from tri_serve.errors import UsageError
from tri_serve.plan.calibration import fit, shares_for
from tri_serve.plan.calibration_table import CalibrationTable
from tri_serve.plan.catalogue import find_gpu
from tri_serve.plan.facts import ModelFacts
from tri_serve.plan.measurements import Measurement
from tri_serve.plan.result import Range
from tri_serve.plan.roofline import roofline
from tri_serve.plan.shares import Pace, prior_shares
from tri_serve.spec.engine import EngineSpec

Models = Callable[..., ModelFacts]

PACE = replace(
    prior_shares(find_gpu("l4")).pace("likely"),
    memory=((1, 0.72), (8, 0.68), (32, 0.55)),
    compute=0.5,
    prefill=0.62,
    overhead=0.004,
)


def measured(
    model: ModelFacts, kind: str, batch: int, context: int, pace: Pace = PACE, **changes: Any
) -> Measurement:
    """What an engine at that pace would have shown."""
    fields: dict[str, Any] = {
        "gpu": "l4",
        "version": "0.32.0",
        "quantization": model.quantization.method,
        "tensor_parallel": 1,
        "kind": kind,
        "batch": batch,
        "context": context,
        "provenance": "a test",
    } | changes
    ranks = fields["tensor_parallel"]
    roof = roofline(model, find_gpu(fields["gpu"]), ranks, 204_800 // ranks)
    if kind == "decode":
        rate = batch / roof.decode_seconds(pace, batch, context)
    else:
        rate = context / roof.prefill_seconds(pace, context, context)
    return Measurement(**{"tokens_per_second": rate} | fields)


def table(points: list[Measurement], model: ModelFacts) -> CalibrationTable:
    return fit(points, model, made="2026-01-01T00:00:00Z", made_with="tri-serve test", machine="a test")


def grid(model: ModelFacts, **changes: Any) -> list[Measurement]:
    decode = [measured(model, "decode", b, c, **changes) for b in (1, 8, 32) for c in (256, 2048, 8000)]
    return decode + [measured(model, "prefill", 1, tokens, **changes) for tokens in (1024, 2048, 4096)]


def test_the_shares_and_the_overhead_that_made_the_measurements_come_out_again(model: Models) -> None:
    (found,) = table(grid(model()), model()).calibrations
    assert found.overhead.likely == pytest.approx(0.004)
    assert [(knot.batch, knot.points) for knot in found.memory] == [(1, 3), (8, 3), (32, 3)]
    assert [knot.share.likely for knot in found.memory] == pytest.approx([0.72, 0.68, 0.55])
    assert found.prefill is not None
    assert found.prefill.likely == pytest.approx(0.62)
    assert found.compute is None


def test_a_plan_with_the_fitted_shares_says_what_was_measured(model: Models) -> None:
    shares = shares_for(find_gpu("l4"), EngineSpec(), "awq", [table(grid(model()), model())])
    roof = roofline(model(), find_gpu("l4"), 1, 204_800)
    for batch, context in ((1, 256), (8, 2048), (32, 8000), (16, 4000)):
        expected = roof.decode_seconds(PACE, batch, context)
        assert roof.decode_seconds(shares.pace("likely"), batch, context) == pytest.approx(expected)


def test_steps_that_wait_for_arithmetic_give_its_share(model: Models) -> None:
    points = [measured(model(), "decode", batch, 16) for batch in (256, 384, 512)]
    (found,) = table(points, model()).calibrations
    assert found.memory == ()
    assert found.compute is not None
    # Nothing but the prior tells the overhead here: 0.5 of the true 4 ms, of steps of 170 ms and more.
    assert found.compute.likely == pytest.approx(0.5, rel=0.03)


def test_shares_of_two_gpus_are_those_of_each(model: Models) -> None:
    points = grid(model(), tensor_parallel=2)
    (found,) = table(points, model()).calibrations
    assert found.tensor_parallel == (2,)
    assert [knot.share.likely for knot in found.memory] == pytest.approx([0.72, 0.68, 0.55])


def test_one_wrong_measurement_among_many_does_not_move_the_share(model: Models) -> None:
    contexts = (256, 300, 350, 400, 450, 500)
    points = [measured(model(), "decode", 8, context) for context in contexts]
    slow = points[0].model_copy(update={"tokens_per_second": points[0].tokens_per_second / 2})
    (clean,) = table(points, model()).calibrations
    (found,) = table([*points, slow], model()).calibrations
    assert found.memory[0].share.likely == pytest.approx(clean.memory[0].share.likely, rel=0.01)


def test_the_range_is_as_wide_as_the_measurements_lie_apart(model: Models) -> None:
    def spread(*factors: float) -> float:
        point = measured(model(), "decode", 1, 1024)
        points = [
            point.model_copy(update={"tokens_per_second": point.tokens_per_second * factor})
            for factor in factors
        ]
        (found,) = table(points, model()).calibrations
        share = found.memory[0].share
        assert share.low < share.likely < share.high
        return (share.high - share.low) / share.likely

    assert spread(1.0) == pytest.approx(0.30)
    assert spread(0.99, 1.01) == pytest.approx(0.30)
    assert spread(1.0, 1.0, 1.0) == pytest.approx(0.10)
    assert spread(0.95, 1.0, 1.05) == pytest.approx(4 * 1.4826 * 0.05, rel=0.05)


def test_prompts_that_wait_for_weights_say_nothing_of_arithmetic(model: Models) -> None:
    (found,) = table([measured(model(), "prefill", 1, 16)], model()).calibrations
    assert (found.prefill, found.ignored) == (None, 1)


def test_measurements_are_kept_apart_by_gpu_version_and_engine(model: Models) -> None:
    points = [
        measured(model(), "decode", 1, 1024),
        measured(model(), "decode", 1, 1024, version="0.32.1"),
        measured(model(), "decode", 1, 1024, version="0.29.0"),
        measured(model(), "decode", 1, 1024, gpu="l40s"),
        measured(model(), "decode", 1, 1024, engine="sglang", version="0.5.2"),
    ]
    found = table(points, model()).calibrations
    assert [(c.gpu, c.engine, c.minor, c.versions) for c in found] == [
        ("l4", "sglang", "0.5", ("0.5.2",)),
        ("l4", "vllm", "0.29", ("0.29.0",)),
        ("l4", "vllm", "0.32", ("0.32.0", "0.32.1")),
        ("l40s", "vllm", "0.32", ("0.32.0",)),
    ]


def test_an_engine_on_a_cpu_that_is_faster_than_the_assumed_overhead_can_be_fitted(model: Models) -> None:
    small = model(num_hidden_layers=1, vocab_size=64, intermediate_size=512, hidden_size=256)
    rate = 1 / 0.002
    point = Measurement(
        gpu="cpu",
        version="0.32.0",
        quantization="awq",
        kind="decode",
        context=10,
        tokens_per_second=rate,
        provenance="a test",
    )
    (found,) = table([point], small).calibrations
    assert found.overhead.likely == pytest.approx(0.001)


def test_what_is_faster_than_the_device_is_refused(model: Models) -> None:
    point = measured(model(), "decode", 1, 1024).model_copy(update={"tokens_per_second": 40.0})
    with pytest.raises(
        UsageError, match=r"decode on l4, batch 1, context 1024: 40 tokens a second are 1\.\d+ times"
    ):
        table([point], model())


def test_measurements_of_other_weights_are_refused(model: Models) -> None:
    point = measured(model(), "decode", 1, 1024)
    with pytest.raises(UsageError, match=r"measured with quantization awq, and the model .* has none"):
        table([point], model(QuantizationFacts()))


def test_a_table_reads_back_what_it_writes(model: Models) -> None:
    made = table(grid(model()), model())
    assert CalibrationTable.model_validate_json(made.to_json()) == made


@pytest.mark.parametrize(
    ("gpu", "version", "quantization", "says"),
    [
        ("l4", "0.29.0", "awq", "l4 with vllm 0.29 awq: measured was vllm 0.32 awq"),
        ("l4", "0.32.0", "gptq", "l4 with vllm 0.32 gptq: measured was vllm 0.32 awq"),
        ("h100", "0.32.0", "awq", "h100 with vllm 0.32 awq: nobody measured it"),
    ],
)
def test_what_was_not_measured_is_a_prior_that_says_what_was(
    model: Models, gpu: str, version: str, quantization: str, says: str
) -> None:
    tables = [table([measured(model(), "decode", 1, 1024)], model())]
    shares = shares_for(find_gpu(gpu), EngineSpec(version=version), quantization, tables)
    assert shares.evidence == "prior"
    assert shares.detail.startswith(says)
    assert shares.memory == prior_shares(find_gpu(gpu)).memory


def test_another_patch_of_the_same_minor_version_counts_as_measured(model: Models) -> None:
    tables = [table([measured(model(), "decode", 1, 1024)], model())]
    shares = shares_for(find_gpu("l4"), EngineSpec(version="0.32.7"), "awq", tables)
    assert shares.evidence == "calibrated"
    assert shares.detail == (
        "1 measurement of l4 with vllm 0.32.0 awq; measured up to 1 at once, beyond that as a prior falls; "
        "prefill not measured: a prior"
    )
    assert shares.prefill == prior_shares(find_gpu("l4")).prefill


def test_the_first_table_that_has_an_entry_counts(model: Models) -> None:
    other = replace(PACE, memory=((1, 0.4),))
    first = table([measured(model(), "decode", 1, 1024, pace=other)], model())
    second = table(grid(model()), model())
    shares = shares_for(find_gpu("l4"), EngineSpec(), "awq", [first, second])
    assert shares.measured_batches == (1,)


@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_a_measurement_of_next_to_nothing_is_refused(model: Models, kind: str) -> None:
    point = measured(model(), kind, 1, 1024, tokens_per_second=0.001)
    with pytest.raises(
        UsageError, match=r"a test: .* 0\.001 tokens a second are .* of what the device can do"
    ):
        table([point], model())


def test_measurements_that_differ_widely_make_a_range_that_a_plan_can_use(model: Models) -> None:
    points = [
        measured(model(), "decode", 1, 1024, tokens_per_second=rate) for rate in (0.05, 0.1, 6.0, 0.2, 0.07)
    ]
    made = table(points, model())
    (entry,) = made.calibrations
    (found,) = entry.memory
    assert 0 < found.share.low < found.share.likely < found.share.high <= 1
    assert CalibrationTable.model_validate_json(made.to_json()) == made


def relative(share: Range) -> float:
    return (share.high - share.low) / share.likely


def test_beyond_what_was_measured_shares_fall_as_the_prior_does_and_are_as_uncertain(model: Models) -> None:
    points = [measured(model(), "decode", batch, 1024) for batch in (1, 8)]
    prior = prior_shares(find_gpu("l4"))
    shares = shares_for(find_gpu("l4"), EngineSpec(), "awq", [table(points, model())])
    (_, at_8), (batch, at_32) = shares.memory[1:]
    assert batch == 32
    assert at_32.likely / at_8.likely == pytest.approx(0.5 / 0.6)
    assert relative(at_32) >= relative(prior.memory[1][1]) > relative(at_8)
    assert shares.pace("likely").memory_at(256) == at_32.likely
    assert "measured up to 8 at once" in shares.detail
    assert [(one.batch, one.basis) for one in shares.attained() if one.of == "bandwidth"] == [
        (1, "measured"),
        (8, "measured"),
        (32, "beyond what was measured"),
    ]


def test_below_and_above_every_batch_of_the_prior_the_range_widens_too(model: Models) -> None:
    points = [measured(model(), "decode", 64, context) for context in (256, 300, 350)]
    shares = shares_for(find_gpu("l4"), EngineSpec(), "awq", [table(points, model())])
    knots = dict(shares.memory)
    assert list(knots) == [8, 32, 64, 256]
    assert knots[8].likely / knots[64].likely == pytest.approx(0.6 / 0.5)
    assert knots[256].likely == pytest.approx(knots[64].likely)
    assert relative(knots[256]) > relative(knots[64])
    assert all(0 < share.low <= share.likely <= share.high <= 1 for share in knots.values())
