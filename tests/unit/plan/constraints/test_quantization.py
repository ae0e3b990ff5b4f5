"""Formats: what the spec says of them, which kernel they get, and which no engine takes."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tri_serve.checkpoint.quantization import QuantizationFacts
from tri_serve.plan.constraints import Request, kernel_expectation
from tri_serve.plan.result import Finding

Ask = Callable[..., Request]
Find = Callable[[Request, str], tuple[Finding, ...]]
Only = Callable[[Request, str], Finding]

GPTQ = QuantizationFacts("gptq", 4, 128, layout="gptq")
AWQ = QuantizationFacts("awq", 4, 128, symmetric=False, layout="gemm")
CT = QuantizationFacts("compressed-tensors", 4, 128, layout="pack-quantized")


@pytest.mark.parametrize(
    ("said", "is_", "words"),
    [
        ("gptq", "awq", "model config (awq) does not match"),
        ("awq", "gptq", "model config (gptq) does not match"),
        ("awq", "none", "Cannot find the config file for awq"),
        ("none", "awq", "nothing turns the quantization of a checkpoint off"),
    ],
)
def test_another_quantization_than_the_checkpoint_s_is_refused(
    ask: Ask, only: Only, said: str, is_: str, words: str
) -> None:
    finding = only(ask(quantization=is_, spec_model={"quantization": said}), "quantization-of-the-checkpoint")
    assert finding.severity == "refusal"
    assert words in finding.message
    assert finding.change == {"model.quantization": "auto"}


@pytest.mark.parametrize("said", ["auto", "awq"])
def test_auto_and_the_checkpoint_s_own_quantization_pass(ask: Ask, found: Find, said: str) -> None:
    assert found(ask(spec_model={"quantization": said}), "quantization-of-the-checkpoint") == ()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (replace(GPTQ, symmetric=False), "sym: false"),
        (replace(GPTQ, group_size=256), "groups of 256"),
        (replace(AWQ, bits=8), "8 bits"),
        (replace(GPTQ, act_order=True), "desc_act: true"),
        (replace(CT, act_order=True), "actorder: group"),
    ],
)
def test_a_scheme_without_a_kernel_is_refused(
    ask: Ask, only: Only, facts: QuantizationFacts, words: str
) -> None:
    finding = only(ask(quantization=facts), "quantization-scheme")
    assert finding.severity == "refusal"
    assert words in finding.message
    assert finding.advice


@pytest.mark.parametrize(
    "facts", [GPTQ, AWQ, CT, replace(CT, symmetric=False), replace(GPTQ, act_order=True, group_size=None)]
)
def test_common_schemes_pass(ask: Ask, found: Find, facts: QuantizationFacts) -> None:
    assert found(ask(quantization=facts), "quantization-scheme") == ()


def test_activation_order_is_refused_from_the_version_that_dropped_it(ask: Ask, found: Find) -> None:
    ordered = replace(GPTQ, act_order=True)
    assert found(ask(quantization=ordered, engine={"version": "0.29.0"}), "quantization-scheme") == ()
    (finding,) = found(ask(quantization=ordered, engine={"version": "0.30.0"}), "quantization-scheme")
    assert finding.change == {"engine.version": "0.29.0"}


@pytest.mark.parametrize(
    ("gpu", "kernel"),
    [
        ("a100-80", "Marlin"),
        ("a10", "Marlin"),
        ("l4", "Marlin"),
        ("b200", "Marlin"),
        ("rtx-5090", "Marlin"),
        ("h100", "Machete"),
        ("cpu", "CPUWNA16LinearKernel"),
    ],
)
@pytest.mark.parametrize("method", ["awq", "gptq", "compressed-tensors"])
def test_the_kernel_that_each_device_is_expected_to_use(ask: Ask, gpu: str, kernel: str, method: str) -> None:
    assert kernel_expectation(ask(gpu, method)) == kernel


def test_where_layers_differ_the_expectation_says_which(ask: Ask) -> None:
    """Eight ranks leave qkv_proj (4 + 2 * 1) * 160 = 960 outputs, gate_up_proj 2 * 3,424 = 6,848, no multiples of
    Machete's 128, and down_proj 3,424 inputs, no multiple of its 64."""
    spread = ask("h100", replace(CT, group_size=None), engine={"tensor_parallel_size": 8})
    assert kernel_expectation(spread) == "Humming; Machete for o_proj"
    small = replace(CT, group_size=32)
    assert kernel_expectation(ask("h100", small)) == "Humming"
    assert kernel_expectation(ask("h100", small, engine={"version": "0.31.0"})) == "Marlin"


def test_weights_without_quantization_need_no_such_kernel(ask: Ask, found: Find) -> None:
    assert kernel_expectation(ask(quantization="none")) == "none: weights are not quantised"
    assert kernel_expectation(ask(quantization="bitsandbytes")) == "bitsandbytes, 4 bits"
    assert found(ask(quantization="none"), "quantization-kernel") == ()


def test_a_gpu_before_turing_has_no_4_bit_kernel(ask: Ask, found: Find) -> None:
    (finding,) = found(ask("v100"), "quantization-kernel")
    assert finding.severity == "refusal"
    assert "compute capability 7.0" in finding.message
    assert found(ask("t4"), "quantization-kernel") == ()


def test_a_layer_that_the_cpu_s_kernel_does_not_take_is_refused(ask: Ask, only: Only, found: Find) -> None:
    odd = {"intermediate_size": 1040}
    whole = QuantizationFacts("gptq", 4, None, layout="gptq")
    finding = only(ask("cpu", whole, config=odd), "quantization-kernel")
    assert finding.severity == "refusal"
    assert "down_proj 1,040 × 5,120" in finding.message
    assert found(ask("cpu"), "quantization-kernel") == ()


def test_tiles_that_marlin_pads_are_named(ask: Ask, found: Find) -> None:
    spread = ask("l4", replace(CT, group_size=32), engine={"tensor_parallel_size": 8})
    (finding,) = found(spread, "quantization-kernel")
    assert finding.severity == "warning"
    assert "down_proj 3,424 × 5,120" in finding.message
    assert found(ask("l4", engine={"tensor_parallel_size": 2}), "quantization-kernel") == ()


def test_humming_counts_as_fast(ask: Ask, found: Find) -> None:
    assert found(ask("h100", replace(CT, group_size=32)), "quantization-kernel") == ()


def test_a_slow_kernel_is_named(ask: Ask, found: Find) -> None:
    (finding,) = found(ask("l4", replace(AWQ, group_size=16)), "quantization-kernel")
    assert finding.severity == "warning"
    assert "AWQ's own Triton kernel" in finding.message


def test_bitsandbytes_needs_its_plugin_from_0_28_on(ask: Ask, found: Find) -> None:
    (new,) = found(ask(quantization="bitsandbytes", engine={"version": "0.28.0"}), "bitsandbytes-plugin")
    assert "vllm-bnb-plugin" in new.message
    assert "pip install vllm-bnb-plugin" in new.advice
    (old,) = found(ask(quantization="bitsandbytes", engine={"version": "0.27.1"}), "bitsandbytes-plugin")
    assert "vllm-bnb-plugin" not in old.message + old.advice
    assert found(ask(), "bitsandbytes-plugin") == ()
