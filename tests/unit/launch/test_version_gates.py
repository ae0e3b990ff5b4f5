from __future__ import annotations

import pytest

from tri_serve.errors import LaunchError
from tri_serve.launch.flags.table import UNKNOWN
from tri_serve.launch.options import Option
from tri_serve.launch.version_gates import version_gate, without_defaults


@pytest.mark.parametrize(
    ("version", "of", "exact"),
    [
        ("0.32.0", (0, 32), True),
        ("0.32.7", (0, 32), True),
        ("0.32", (0, 32), True),
        ("0.32.1rc1", (0, 32), True),
        ("0.99.0", (0, 33), False),
        ("1.0.0", (0, 33), False),
    ],
)
def test_a_version_is_judged_by_the_nearest_table_that_is_not_newer(
    version: str, of: tuple[int, int], exact: bool
) -> None:
    gate = version_gate("vllm", version)
    assert (gate.of, gate.is_exact) == (of, exact)


def test_sglang_s_patch_releases_count() -> None:
    assert version_gate("sglang", "0.5.20").of == (0, 5, 16)
    assert not version_gate("sglang", "0.5.20").is_exact
    assert version_gate("sglang", "0.5.23.post1").is_exact


@pytest.mark.parametrize(
    ("engine", "version", "words"),
    [
        ("vllm", "0.17.1", r"engine\.version: vLLM 0\.17\.1 is too old; it has no --shutdown-timeout"),
        ("sglang", "0.4.9", r"engine\.version: SGLang 0\.4\.9 is too old"),
    ],
)
def test_a_version_older_than_all_that_is_known_is_refused(engine: str, version: str, words: str) -> None:
    with pytest.raises(LaunchError, match=words) as caught:
        version_gate("vllm" if engine == "vllm" else "sglang", version)
    assert "or later" in (caught.value.hint or "")


def test_a_flag_that_came_later_is_refused_with_the_version_that_has_it() -> None:
    with pytest.raises(LaunchError, match=r"^engine\.x: vLLM 0\.24\.0 has no --log-level$") as caught:
        version_gate("vllm", "0.24.0").check([Option("--log-level", "INFO", "engine.x")])
    assert (
        caught.value.hint == "it came with 0.31: set engine.version to 0.31.0 or later, or leave engine.x out"
    )


def test_a_flag_that_is_gone_is_refused_with_the_last_version_that_had_it() -> None:
    with pytest.raises(LaunchError) as caught:
        version_gate("vllm", "0.32.0").check([Option("--calculate-kv-scales", None, "")])
    assert caught.value.hint == "the last version that takes it is 0.27"


def test_a_flag_of_no_version_is_refused_as_such() -> None:
    with pytest.raises(LaunchError) as caught:
        version_gate("sglang", "0.5.23").check([Option("--gpu-memory-utilization", "0.9", "")])
    assert caught.value.message == "SGLang 0.5.23 has no --gpu-memory-utilization"
    assert caught.value.hint == "no version that tri-serve knows takes it"


def test_a_value_that_came_later_is_refused_with_what_this_version_takes() -> None:
    with pytest.raises(LaunchError, match="does not take --kv-cache-dtype nvfp4; it takes auto, ") as caught:
        version_gate("vllm", "0.18.1").check([Option("--kv-cache-dtype", "nvfp4", "engine.kv_cache_dtype")])
    assert "it came with 0." in (caught.value.hint or "")


def test_the_first_option_that_is_not_taken_is_named_and_the_others_pass() -> None:
    gate = version_gate("vllm", "0.32.0")
    gate.check([Option("--dtype", "bfloat16", ""), Option("--enforce-eager", None, "")])
    with pytest.raises(LaunchError, match="--nope"):
        gate.check([Option("--dtype", "bfloat16", ""), Option("--nope", None, "")])


def test_defaults_are_the_version_s_own() -> None:
    assert version_gate("vllm", "0.18.1").default("--gpu-memory-utilization") == 0.9
    assert version_gate("vllm", "0.32.0").default("--gpu-memory-utilization") == 0.92
    assert version_gate("vllm", "0.32.0").default("--nope") is UNKNOWN


def test_only_what_differs_from_the_version_s_defaults_is_left() -> None:
    options = [
        Option("--gpu-memory-utilization", "0.92", ""),
        Option("--shutdown-timeout", "0", ""),
        Option("--dtype", "auto", ""),
        Option("--max-model-len", "8192", ""),
        Option("--enforce-eager", None, ""),
    ]
    left = without_defaults(options, version_gate("vllm", "0.32.0"))
    assert [option.flag for option in left] == ["--max-model-len", "--enforce-eager"]
    left = without_defaults(options, version_gate("vllm", "0.18.1"))
    assert left[0] == Option("--gpu-memory-utilization", "0.92", "")
