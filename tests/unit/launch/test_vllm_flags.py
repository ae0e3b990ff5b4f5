from __future__ import annotations

import pytest

from tri_serve.errors import LaunchError
from tri_serve.launch.version_gates import version_gate
from tri_serve.launch.vllm_flags import check_extra_args, has_flag

GATE = version_gate("vllm", "0.32.0")


@pytest.mark.parametrize(
    ("argument", "key"),
    [
        ("--max-model-len", "model.max_model_len"),
        ("--max_model_len=4096", "model.max_model_len"),
        ("--quant", "model.quantization"),
        ("-q", "model.quantization"),
        ("-tp=2", "engine.tensor_parallel_size"),
        ("--dtype=half", "engine.dtype"),
    ],
)
def test_a_flag_that_the_spec_has_a_key_for_is_refused_naming_the_key(argument: str, key: str) -> None:
    with pytest.raises(LaunchError, match=key):
        check_extra_args(("--seed", "1", argument), GATE)


@pytest.mark.parametrize("argument", ["--api-key", "--api-key=x", "--api_key", "--api-k", "--hf-token=x"])
def test_a_key_on_the_command_line_is_refused_without_repeating_it(argument: str) -> None:
    with pytest.raises(LaunchError, match="every user of the machine can read") as caught:
        check_extra_args((argument, "sesame"), GATE)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("argument", ["--host", "--port=1", "--uds", "--ssl-keyfile", "--root-path"])
def test_flags_that_would_cut_the_engine_off_from_the_gateway_are_refused(argument: str) -> None:
    with pytest.raises(LaunchError, match="cannot be given"):
        check_extra_args((argument,), GATE)


@pytest.mark.parametrize(
    ("argument", "instead"),
    [
        ("--task", "--runner"),
        ("--guided-decoding-backend", "--structured-outputs-config"),
        ("--swap_space=4", "leave it out"),
        ("--device", "engine.device"),
    ],
)
def test_a_flag_that_vllm_has_dropped_is_refused_with_its_replacement(argument: str, instead: str) -> None:
    with pytest.raises(LaunchError, match=instead):
        check_extra_args((argument,), GATE)


def test_other_flags_and_values_that_look_like_flags_of_ours_pass() -> None:
    check_extra_args(
        (
            "--enforce-eager",
            "--model-impl=vllm",
            "--chat-template",
            "port",
            "--api-server-count",
            "2",
            "-",
            "--",
            "-O3",
        ),
        GATE,
    )


def test_a_flag_is_found_in_either_spelling() -> None:
    assert has_flag(("--no_enforce_eager",), "--no-enforce-eager")
    assert not has_flag(("enforce-eager",), "--enforce-eager")


def test_every_flag_that_cannot_stand_there_is_named_once() -> None:
    with pytest.raises(LaunchError) as caught:
        check_extra_args(("--port", "1", "--seed=1", "-tp", "2", "--port", "2", "--task=embed"), GATE)
    lines = caught.value.message.splitlines()
    assert lines[0] == "engine.extra_args: 3 flags that cannot stand there:"
    assert [line.split()[0] for line in lines[1:3]] == ["--port", "-tp"]
    assert lines[3].strip().startswith("vLLM 0.32.0 no longer has --task: use --runner or --convert")
    assert len(lines) == 4


def test_a_flag_that_the_version_does_not_have_yet_is_refused_with_the_version_that_has_it() -> None:
    with pytest.raises(LaunchError, match=r"vLLM 0\.24\.0 has no --log-level: it came with 0\.31:") as caught:
        check_extra_args(("--log-level=INFO",), version_gate("vllm", "0.24.0"))
    assert "set engine.version to 0.31.0 or later" in str(caught.value)
    check_extra_args(("--log-level=INFO",), GATE)


def test_a_flag_that_no_version_has_is_refused() -> None:
    with pytest.raises(LaunchError, match=r"has no --max-model-length: no version"):
        check_extra_args(("--max-model-length=8192",), GATE)


def test_a_flag_that_an_older_version_still_has_is_taken_there() -> None:
    check_extra_args(("--calculate-kv-scales",), version_gate("vllm", "0.24.0"))
    with pytest.raises(LaunchError, match="leave it out"):
        check_extra_args(("--calculate-kv-scales",), GATE)


def test_what_a_version_newer_than_every_table_knows_is_not_judged() -> None:
    check_extra_args(("--brand-new=1",), version_gate("vllm", "0.99.0"))


def test_an_engine_of_its_own_may_have_tls_and_still_no_secret_in_its_arguments() -> None:
    check_extra_args(("--ssl-keyfile=/k", "--ssl-certfile=/c"), GATE, standalone=True)
    with pytest.raises(LaunchError, match="VLLM_API_KEY"):
        check_extra_args(("--api-key=x",), GATE, standalone=True)
    with pytest.raises(LaunchError, match=r"gateway\.port"):
        check_extra_args(("--port=1",), GATE, standalone=True)


def test_an_alias_of_a_flag_of_ours_is_refused_like_the_flag() -> None:
    with pytest.raises(LaunchError, match=r"engine\.gpu_memory_utilization"):
        check_extra_args(("--device-memory-utilization=0.5",), GATE)
