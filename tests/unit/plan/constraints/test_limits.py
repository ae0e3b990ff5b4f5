"""Context, steps, types, code of the model, driver."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tri_serve.plan.constraints import Request
from tri_serve.plan.result import Finding

Ask = Callable[..., Request]
Find = Callable[[Request, str], tuple[Finding, ...]]
Only = Callable[[Request, str], Finding]


def test_a_context_beyond_the_model_s_is_refused(ask: Ask, found: Find, only: Only) -> None:
    finding = only(ask(spec_model={"max_model_len": 16_384}), "context-of-the-model")
    assert finding.severity == "refusal"
    assert "16,384 tokens, and the model was made for 8,192" in finding.message
    assert finding.change == {"model.max_model_len": "8192"}
    for length in (None, 4_096, 8_192):
        assert found(ask(spec_model={"max_model_len": length}), "context-of-the-model") == ()


def test_a_context_that_rope_stretches_is_the_model_s_own(ask: Ask, found: Find) -> None:
    stretched = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    request = ask(spec_model={"max_model_len": 16_384})
    longer = replace(request.model.architecture, rope_type="linear", rope_factor=2.0)
    assert stretched["rope_scaling"]["factor"] == longer.rope_factor
    wide = replace(request, model=replace(request.model, architecture=longer))
    assert found(wide, "context-of-the-model") == ()


def test_the_engine_s_own_way_around_its_check_leaves_a_warning(ask: Ask, only: Only) -> None:
    allowed = {"env": {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}}
    finding = only(ask(spec_model={"max_model_len": 16_384}, engine=allowed), "context-of-the-model")
    assert finding.severity == "warning"


@pytest.mark.parametrize(
    ("gpu", "engine", "works"),
    [
        # L4: the engine's default of 2,048 tokens a step.
        ("l4", {"max_num_seqs": 4_096}, {"engine.max_num_batched_tokens": "4096"}),
        ("l4", {"max_num_seqs": 64, "max_num_batched_tokens": 32}, {"engine.max_num_batched_tokens": "64"}),
        # H100: 8,192.
        ("h100", {"max_num_seqs": 8_193}, {"engine.max_num_batched_tokens": "8193"}),
        (
            "l4",
            {"max_num_batched_tokens": 2_048, "extra_args": ("--no-enable-chunked-prefill",)},
            {"engine.max_num_batched_tokens": "8192"},
        ),
    ],
)
def test_a_step_without_room_is_refused(
    ask: Ask, only: Only, gpu: str, engine: dict[str, object], works: dict[str, str]
) -> None:
    finding = only(ask(gpu, engine=engine), "tokens-of-a-step")
    assert finding.severity == "refusal"
    assert finding.change == works


@pytest.mark.parametrize(
    "engine",
    [
        {},
        {"max_num_seqs": 2_048},
        {"max_num_batched_tokens": 64},
        {"max_num_batched_tokens": 2_048},
        {"extra_args": ("--no-enable-chunked-prefill",)},
        {"max_num_seqs": 4_096, "extra_args": ("--no-enable-chunked-prefill",)},
    ],
)
def test_a_step_with_room_passes(ask: Ask, found: Find, engine: dict[str, object]) -> None:
    assert found(ask("l4", engine=engine), "tokens-of-a-step") == ()


def test_bfloat16_needs_ampere(ask: Ask, found: Find, only: Only) -> None:
    finding = only(ask("t4"), "dtype")
    assert finding.severity == "refusal"
    assert "7.5, and bfloat16 needs 8.0" in finding.message
    assert finding.change == {"engine.dtype": "float16"}
    assert found(ask("l4"), "dtype") == ()


@pytest.mark.parametrize(("method", "refused"), [("awq", True), ("gptq", True), ("none", False)])
def test_float32_has_no_4_bit_kernel(ask: Ask, found: Find, method: str, refused: bool) -> None:
    findings = found(ask(quantization=method, engine={"dtype": "float32"}), "dtype")
    assert [finding.change for finding in findings] == [{"engine.dtype": "bfloat16"}] * refused


def test_float16_for_a_bfloat16_model_is_noted(ask: Ask, only: Only) -> None:
    assert only(ask(engine={"dtype": "float16"}), "dtype").severity == "note"


def test_a_model_that_is_no_llama_is_refused(ask: Ask, found: Find) -> None:
    request = ask()
    assert found(request, "architecture") == ()
    trillion = replace(request.model.architecture, architectures=("TrillionForCausalLM",))
    other = replace(request, model=replace(request.model, architecture=trillion))
    (finding,) = found(other, "architecture")
    assert finding.severity == "refusal"
    assert "TrillionForCausalLM" in finding.message
    assert "converted to, LlamaForCausalLM" in finding.advice


def test_remote_code_needs_the_user_s_word(ask: Ask, found: Find) -> None:
    request = ask()
    assert found(request, "remote-code") == ()
    with_code = replace(request, model=replace(request.model, remote_code=True))
    (refused,) = found(with_code, "remote-code")
    assert refused.severity == "refusal"
    assert refused.change == {"model.trust_remote_code": "true"}
    (noted,) = found(with_code.changed(refused.change), "remote-code")
    assert noted.severity == "note"


@pytest.mark.parametrize(
    ("model_type", "severity"), [("llama", "note"), ("trillion", "refusal"), ("", "refusal")]
)
def test_code_of_a_checkpoint_is_run_only_where_the_engine_does_not_know_the_type(
    ask: Ask, found: Find, model_type: str, severity: str
) -> None:
    request = ask(config={"model_type": model_type} if model_type else None)
    with_code = replace(request, model=replace(request.model, remote_code=True))
    (finding,) = found(with_code, "remote-code")
    assert finding.severity == severity
    if severity == "note":
        assert "it is not run" in finding.message


@pytest.mark.parametrize(
    "flag", ["--hf-overrides={}", "--hf-overrides.rope_parameters.factor=4", "--hf-over={}"]
)
def test_a_context_that_overrides_may_lengthen_is_left_to_the_engine(
    ask: Ask, found: Find, flag: str
) -> None:
    longer = {"max_model_len": 32768}
    (refused,) = found(ask(spec_model=longer), "context-of-the-model")
    (warned,) = found(ask(spec_model=longer, engine={"extra_args": (flag,)}), "context-of-the-model")
    assert (refused.severity, warned.severity) == ("refusal", "warning")
    assert "max_position_embeddings" in warned.advice


def test_a_newer_half_of_the_driver_that_the_user_brings_is_a_warning(ask: Ask, found: Find) -> None:
    old = {"driver_cuda": (12, 4), "seen": "this machine"}
    (refused,) = found(ask(device=old), "driver")
    assert "--set engine.env.VLLM_ENABLE_CUDA_COMPATIBILITY=1" in refused.advice
    brought = ask(device=old, engine={"env": {"VLLM_ENABLE_CUDA_COMPATIBILITY": "1"}})
    (warned,) = found(brought, "driver")
    assert (refused.severity, warned.severity) == ("refusal", "warning")


def test_the_limits_of_a_gpu_whose_memory_is_not_known_are_not_guessed(ask: Ask, found: Find) -> None:
    many = {"max_num_seqs": 4096}
    assert len(found(ask(engine=many), "tokens-of-a-step")) == 1
    assert found(ask(engine=many, device={"total": 0, "seen": "this machine"}), "tokens-of-a-step") == ()


@pytest.mark.parametrize(
    ("version", "driver_cuda", "severity"),
    [
        ("0.32.0", None, None),
        ("0.32.0", (13, 0), None),
        ("0.32.0", (13, 2), None),
        ("0.32.0", (12, 8), "refusal"),
        ("0.24.0", (12, 9), "refusal"),
        ("0.18.0", (12, 8), None),
        ("0.18.0", (12, 4), "warning"),
        ("0.18.0", (11, 8), "refusal"),
    ],
)
def test_the_driver_takes_the_engine_s_cuda(
    ask: Ask, found: Find, version: str, driver_cuda: tuple[int, int] | None, severity: str | None
) -> None:
    request = ask(
        engine={"version": version},
        device={"driver_cuda": driver_cuda, "driver": "535.104.05", "seen": "this machine"},
    )
    findings = found(request, "driver")
    assert [finding.severity for finding in findings] == ([severity] if severity else [])
    if severity:
        assert "the driver (535.104.05) takes CUDA up to" in findings[0].message
