"""What holds for every rule: names, order, and that the change that a refusal names is one that works."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tri_serve.checkpoint.quantization import QuantizationFacts
from tri_serve.plan.catalogue import read_catalogue
from tri_serve.plan.constraints import (
    Request,
    all_rules,
    apply_change,
    check,
    kernel_expectation,
    parse_version,
)

Ask = Callable[..., Request]

GPUS = ("l4", "a10", "a100-80", "h100", "h200", "t4", "b200", "rtx-5090", "cpu")
RANKS = (1, 2, 3, 4, 6, 8, 16, 32)
DTYPES = ("auto", "fp8", "fp8_e4m3", "fp8_e5m2")


def test_rules_have_names_of_their_own_and_say_where_they_are_from() -> None:
    names = [rule.name for rule in all_rules()]
    assert len(set(names)) == len(names) >= 20
    assert all(rule.source and rule.title.endswith(".") and rule.severities for rule in all_rules())


@pytest.mark.parametrize("group", [None, 32, 64, 128])
@pytest.mark.parametrize("method", ["awq", "gptq", "compressed-tensors", "none"])
def test_the_change_that_a_finding_names_satisfies_its_rule(ask: Ask, method: Any, group: int | None) -> None:
    """Tensor parallel size x KV cache type x GPU, with everything in memory counted anew."""
    none = method == "none"
    facts = QuantizationFacts(method, 16 if none else 4, None if none else group, symmetric=method != "awq")
    rules = {rule.name: rule for rule in all_rules()}
    tried = 0
    for gpu, ranks, dtype in itertools.product(GPUS, RANKS, DTYPES):
        request = ask(
            gpu,
            facts,
            engine={"tensor_parallel_size": ranks, "kv_cache_dtype": dtype},
            device={"count": 8, "seen": "this machine"},
            fleet={"replicas": 2},
            planned=dtype == "auto" and ranks in (1, 3),
        )
        for finding in check(request):
            assert finding.severity in rules[finding.rule].severities
            if finding.change:
                after = request.changed(finding.change)
                left = [other.severity for other in rules[finding.rule].find(after)]
                assert "refusal" not in left, (gpu, ranks, dtype, finding)
                tried += 1
    assert tried > 50


def test_refusals_come_first(ask: Ask) -> None:
    request = ask(
        engine={"kv_cache_dtype": "fp8", "dtype": "float16", "tensor_parallel_size": 8},
        spec_model={"quantization": "gptq"},
    )
    severities = [finding.severity for finding in check(request)]
    assert severities == sorted(severities, key=("refusal", "warning", "note").index)
    assert set(severities) == {"refusal", "warning", "note"}


@pytest.mark.parametrize("preset", sorted(read_catalogue().gpus))
def test_tri_21b_in_4_bits_is_refused_on_no_gpu_of_the_catalogue(ask: Ask, preset: str) -> None:
    for method in ("awq", "gptq", "compressed-tensors"):
        findings = check(ask(preset, method, planned=True))
        assert [finding for finding in findings if finding.severity == "refusal"] == []


def test_a_change_is_written_as_in_the_spec(ask: Ask) -> None:
    spec = ask(engine={"extra_args": ("--seed", "1"), "cpu_threads": 4}).spec
    after = apply_change(
        spec,
        {
            "engine.extra_args": '["--seed=2"]',
            "engine.cpu_threads": "null",
            "model.max_model_len": "4096",
            "engine.gpu_memory_utilization": "0.5",
            "model.trust_remote_code": "true",
        },
    )
    assert (after.engine.extra_args, after.engine.cpu_threads) == (("--seed=2",), None)
    assert (after.model.max_model_len, after.engine.gpu_memory_utilization) == (4096, 0.5)
    assert after.model.trust_remote_code
    assert spec.engine.cpu_threads == 4


@pytest.mark.parametrize(("text", "version"), [("0.32.0", (0, 32)), ("0.18", (0, 18)), ("1.0.0rc1", (1, 0))])
def test_a_version_is_its_first_two_numbers(text: str, version: tuple[int, int]) -> None:
    assert parse_version(text) == version


def test_rules_that_are_vllm_s_are_not_held_against_sglang_and_that_is_said(ask: Ask) -> None:
    given = {"kv_cache_dtype": "fp8", "tensor_parallel_size": 4}
    of_vllm = {finding.rule for finding in check(ask("a10", engine=given))}
    of_sglang = {finding.rule for finding in check(ask("a10", engine=given | {"kind": "sglang"}))}
    assert {"fp8-kv-cache", "group-size-tensor-parallel"} <= of_vllm - of_sglang
    assert "other-engine" in of_sglang - of_vllm
    three = check(ask("a10", engine={"kind": "sglang", "tensor_parallel_size": 3}))
    assert "heads-tensor-parallel" in {finding.rule for finding in three}
    assert kernel_expectation(ask("a10", engine={"kind": "sglang"})) == "SGLang's own choice"
