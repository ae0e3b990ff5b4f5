"""What was measured, read from our own files and from those of vLLM's benchmarks."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from tri_serve.cli.plan import calibrate
from tri_serve.errors import UsageError
from tri_serve.plan.measurements import Measurement, Setting, read_measurements

POINT: dict[str, Any] = {
    "gpu": "L4",
    "engine": "vllm",
    "version": "0.32.0",
    "quantization": "awq",
    "tensor_parallel": 1,
    "kind": "decode",
    "batch": 8,
    "context": 1024,
    "tokens_per_second": 120.5,
    "provenance": "a test",
}

BENCH_SERVE: dict[str, Any] = {
    # As vllm bench serve 0.32 writes it (vllm/benchmarks/serve.py), without what is not read.
    "date": "20260101-120000",
    "endpoint_type": "openai",
    "backend": "openai",
    "label": None,
    "model_id": "tri-21b",
    "num_prompts": 100,
    "request_rate": "inf",
    "burstiness": 1.0,
    "max_concurrency": 8,
    "duration": 200.0,
    "completed": 100,
    "failed": 0,
    "total_input_tokens": 100_000,
    "total_output_tokens": 20_100,
    "output_throughput": 100.5,
    "mean_ttft_ms": 900.0,
    "median_ttft_ms": 800.0,
    "mean_tpot_ms": 76.0,
    "median_tpot_ms": 75.0,
    "median_itl_ms": 70.0,
}
L4_AWQ = Setting(gpu="l4", version="0.32.0", quantization="awq")


def write(path: Path, *documents: Any) -> Path:
    file = path / "result.json"
    file.write_text("\n".join(json.dumps(document) for document in documents))
    return file


@pytest.mark.parametrize("document", [[POINT], {"measurements": [POINT]}])
def test_our_own_files_are_lists_of_measurements(tmp_path: Path, document: Any) -> None:
    (found,) = read_measurements(write(tmp_path, document))
    assert found == Measurement(**{**POINT, "gpu": "l4"})
    assert found.seconds == pytest.approx(8 / 120.5)


def test_a_prompt_is_read_in_the_time_of_all_its_tokens(tmp_path: Path) -> None:
    (found,) = read_measurements(write(tmp_path, [POINT | {"kind": "prefill", "batch": 2}]))
    assert found.seconds == pytest.approx(2 * 1024 / 120.5)


def test_the_command_line_fills_in_what_a_file_leaves_out_and_no_more(tmp_path: Path) -> None:
    left_out = {key: value for key, value in POINT.items() if key not in ("gpu", "quantization")}
    setting = Setting(gpu="l40s", quantization="gptq", version="0.29.0")
    (found,) = read_measurements(write(tmp_path, [left_out]), setting)
    assert (found.gpu, found.quantization, found.version) == ("l40s", "gptq", "0.32.0")


def test_a_serving_benchmark_gives_the_steps_of_the_sequences_it_had_on_average(tmp_path: Path) -> None:
    (found,) = read_measurements(write(tmp_path, BENCH_SERVE), L4_AWQ)
    # 100 requests of 201 tokens: each generates for 200 x 76 ms = 15.2 s, of 200 s in all.
    assert (found.kind, found.batch) == ("decode", 8)
    assert found.context == 1000 + 100
    assert found.seconds == pytest.approx(0.070)
    assert found.provenance == "result.json: vllm bench serve, tri-21b, 20260101-120000"


def test_one_request_after_the_other_gives_the_time_of_prompts_as_well(tmp_path: Path) -> None:
    alone = BENCH_SERVE | {"max_concurrency": 1, "duration": 1600.0}
    decode, prefill = read_measurements(write(tmp_path, alone), L4_AWQ)
    assert decode.batch == 1
    assert (prefill.kind, prefill.context) == ("prefill", 1000)
    assert prefill.seconds == pytest.approx(0.8)


def test_what_vllm_was_told_as_metadata_goes_before_the_command_line(tmp_path: Path) -> None:
    told = BENCH_SERVE | {"gpu": "h100", "version": "0.29.0", "quantization": "gptq", "tensor_parallel": "2"}
    (found,) = read_measurements(write(tmp_path, told), L4_AWQ)
    assert (found.gpu, found.version, found.tensor_parallel) == ("h100", "0.29.0", 2)


def test_results_that_were_appended_to_one_file_are_all_read(tmp_path: Path) -> None:
    file = write(tmp_path, BENCH_SERVE, BENCH_SERVE | {"median_itl_ms": 35.0})
    assert [point.seconds for point in read_measurements(file, L4_AWQ)] == pytest.approx([0.070, 0.035])


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ([POINT | {"tokens_per_second": 0}], "measurement 1: tokens_per_second: Input should be greater than"),
        ([POINT | {"tokens_per_second": 1e-308}], "measurement 1: tokens_per_second: Input should be greater than"),
        ([POINT | {"tokens_per_second": math.inf}], "measurement 1: tokens_per_second: Input should be a finite"),
        ([POINT | {"batch": 10**400}], "measurement 1: batch: Input should be less than or equal to 1000000"),
        ([POINT | {"context": 10**400}], "measurement 1: context: Input should be less than or equal to 16777216"),
        ([POINT, POINT | {"batch": "8"}], "measurement 2: batch: Input should be a valid integer"),
        ([POINT | {"price": 1}], "measurement 1: there is no key 'price'"),
        ([POINT | {"gpuu": "l4"}], "measurement 1: there is no key 'gpuu'; did you mean gpu"),
        ([POINT, POINT | {"gpu": "l5"}], "measurement 2: no GPU 'l5' in the catalogue"),
        ([7], "measurement 1 is no object"),
        ([], "holds no measurements"),
        ("words", "holds no measurements that we know"),
        ({"avg_latency": 1.0, "latencies": [1.0]}, "vllm bench latency, which says neither batch size nor lengths"),
        ({"elapsed_time": 1.0, "total_num_tokens": 5}, "vllm bench throughput, which does not tell prompts"),
        (BENCH_SERVE, "does not say gpu and version and quantization"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, document: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        read_measurements(write(tmp_path, document))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"completed": 0}, "completed is 0; a number from 1e-06 to 1e\\+15 is needed"),
        ({"duration": "long"}, "duration is 'long'"),
        ({"spec_decode_acceptance_length": 2.5}, "speculative decoding"),
        ({"mean_tpot_ms": None}, "mean_tpot_ms is None"),
        ({"mean_tpot_ms": math.inf}, "mean_tpot_ms is inf"),
        ({"median_itl_ms": math.inf}, "median_itl_ms is inf"),
        ({"duration": math.nan}, "duration is nan"),
        ({"total_output_tokens": 10**400}, "total_output_tokens is 1000"),
        ({"completed": 1e-300}, "completed is 1e-300"),
        ({"tensor_parallel": "9" * 5000}, "tensor_parallel: Input should be a valid integer"),
        ({"median_itl_ms": 1e15}, "tokens_per_second: Input should be greater than"),
    ],
)
def test_a_benchmark_without_usable_figures_is_refused(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        read_measurements(write(tmp_path, BENCH_SERVE | change), L4_AWQ)


def test_the_hint_names_options_that_plan_calibrate_has(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not say gpu and version and quantization") as caught:
        read_measurements(write(tmp_path, BENCH_SERVE))
    words = str(caught.value.hint).partition(", or measure with ")[0]
    known = {name for parameter in calibrate.params for name in parameter.opts}
    assert words == "give --gpu and --engine-version and --preset"
    assert set(re.findall(r"--[a-z-]+", words)) <= known


def test_a_file_that_is_not_there_or_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.json: cannot be read: No such file"):
        read_measurements(tmp_path / "nothing.json")
    (tmp_path / "text.json").write_text("[{")
    with pytest.raises(UsageError, match=r"text\.json: is no JSON"):
        read_measurements(tmp_path / "text.json")


def test_the_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "calibrate.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```json\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "example.json").write_text(example)
    (found,) = read_measurements(tmp_path / "example.json")
    assert set(json.loads(example)[0]) == set(Measurement.model_fields)
    assert (found.gpu, found.batch) == ("l4", 8)
