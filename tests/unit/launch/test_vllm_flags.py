from __future__ import annotations

import pytest

from tri_serve.errors import LaunchError
from tri_serve.launch.vllm_flags import check_extra_args, has_flag


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
        check_extra_args(("--seed", "1", argument))


@pytest.mark.parametrize("argument", ["--api-key", "--api-key=x", "--api_key", "--api-k", "--hf-token=x"])
def test_a_key_on_the_command_line_is_refused_without_repeating_it(argument: str) -> None:
    with pytest.raises(LaunchError, match="every user of the machine can read") as caught:
        check_extra_args((argument, "sesame"))
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("argument", ["--host", "--port=1", "--uds", "--ssl-keyfile", "--root-path"])
def test_flags_that_would_cut_the_engine_off_from_the_gateway_are_refused(argument: str) -> None:
    with pytest.raises(LaunchError, match="cannot be given"):
        check_extra_args((argument,))


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
        check_extra_args((argument,))


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
        )
    )


def test_a_flag_is_found_in_either_spelling() -> None:
    assert has_flag(("--no_enforce_eager",), "--no-enforce-eager")
    assert not has_flag(("enforce-eager",), "--enforce-eager")


def test_every_flag_that_cannot_stand_there_is_named_once() -> None:
    with pytest.raises(LaunchError) as caught:
        check_extra_args(("--port", "1", "--seed=1", "-tp", "2", "--port", "2", "--task=embed"))
    lines = caught.value.message.splitlines()
    assert lines[0] == "engine.extra_args: 3 flags that cannot stand there:"
    assert [line.split()[0] for line in lines[1:3]] == ["--port", "-tp"]
    assert lines[3].strip() == "vLLM no longer has --task: use --runner or --convert"
    assert len(lines) == 4
