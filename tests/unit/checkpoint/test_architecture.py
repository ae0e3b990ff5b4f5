"""What follows from config.json, and how a config.json that cannot be right is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tri_serve.checkpoint.architecture import architecture_from, read_architecture
from tri_serve.errors import CheckpointError

WHERE = Path("/models/tri/config.json")

TRI_21B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 5120,
    "intermediate_size": 27392,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 160,
    "vocab_size": 124416,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def test_tri_21b_has_as_many_parameters_as_its_weights() -> None:
    assert architecture_from(TRI_21B, WHERE).parameters == 20_725_519_360


def test_tri_21b_keeps_204800_bytes_of_kv_cache_for_each_token() -> None:
    architecture = architecture_from(TRI_21B, WHERE)
    assert architecture.kv_bytes_per_token() == 204_800
    assert architecture.kv_bytes_per_token(element_bytes=1) == 102_400


def test_tied_embeddings_are_counted_once(config: dict[str, Any]) -> None:
    untied = architecture_from(config, WHERE)
    tied = architecture_from(config | {"tie_word_embeddings": True}, WHERE)
    assert untied.parameters - tied.parameters == 10 * 8


@pytest.mark.parametrize("missing", [{}, {"head_dim": None, "num_key_value_heads": None}])
def test_heads_that_are_not_written_are_all_of_hidden_size(
    config: dict[str, Any], missing: dict[str, None]
) -> None:
    del config["head_dim"], config["num_key_value_heads"]
    architecture = architecture_from(config | missing, WHERE)
    assert (architecture.head_dim, architecture.num_key_value_heads) == (2, 4)


@pytest.mark.parametrize(
    ("written", "theta"),
    [
        ({}, 10_000.0),
        ({"rope_theta": 500_000}, 500_000.0),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, 1e6),
    ],
)
def test_rope_theta_is_found_where_either_transformers_writes_it(
    config: dict[str, Any], written: dict[str, Any], theta: float
) -> None:
    assert architecture_from(config | written, WHERE).rope_theta == theta


def test_the_newer_name_of_dtype_is_read(config: dict[str, Any]) -> None:
    del config["torch_dtype"]
    assert architecture_from(config | {"dtype": "float16"}, WHERE).torch_dtype == "float16"


@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True, [2], None])
def test_a_size_that_is_no_size_is_refused_by_name(config: dict[str, Any], value: object) -> None:
    with pytest.raises(CheckpointError) as refused:
        architecture_from(config | {"hidden_size": value}, WHERE)
    assert str(refused.value) == (
        f"{WHERE}: hidden_size is {json.dumps(value)}; a whole number from 1 to 2,147,483,647 is needed"
    )


def test_a_size_that_is_missing_is_refused_by_name(config: dict[str, Any]) -> None:
    del config["vocab_size"]
    with pytest.raises(CheckpointError, match="vocab_size is not there"):
        architecture_from(config, WHERE)


@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [
        ("num_key_value_heads", 3, "a divisor of num_attention_heads"),
        ("tie_word_embeddings", "no", "true or false"),
        ("torch_dtype", 16, "a string"),
        ("architectures", "LlamaForCausalLM", "a list of strings"),
        ("num_hidden_layers", 10**9, "a whole number from 1 to 10,000"),
        ("rope_theta", -1, "a number above 0"),
        ("rope_theta", True, "a number above 0"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(
    config: dict[str, Any], key: str, value: object, needed: str
) -> None:
    with pytest.raises(CheckpointError, match=f"{key} is .*; {needed}"):
        architecture_from(config | {key: value}, WHERE)


def test_heads_that_do_not_divide_the_hidden_size_need_a_head_dim(config: dict[str, Any]) -> None:
    del config["head_dim"]
    with pytest.raises(CheckpointError, match="num_attention_heads is 3; a divisor of hidden_size"):
        architecture_from(config | {"num_attention_heads": 3, "num_key_value_heads": 3}, WHERE)


@pytest.mark.parametrize("names", [["TrillionForCausalLM"], [], None, ["LlamaForCausalLM", "Other"]])
def test_another_architecture_is_refused_with_the_one_that_is_known(
    config: dict[str, Any], names: list[str] | None
) -> None:
    with pytest.raises(CheckpointError, match="LlamaForCausalLM only") as refused:
        architecture_from(config | {"architectures": names}, WHERE)
    assert refused.value.hint is not None
    assert "converted" in refused.value.hint


def test_trillions_own_code_is_refused_with_the_form_that_an_engine_takes(config: dict[str, Any]) -> None:
    config |= {
        "architectures": ["TrillionForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_trillion.TrillionForCausalLM"},
    }
    with pytest.raises(CheckpointError) as refused:
        architecture_from(config, WHERE)
    assert refused.value.hint == (
        "TrillionForCausalLM is Python code that comes with the checkpoint, and vLLM has no class of that name: "
        "use a checkpoint of the model that was saved as, or converted to, LlamaForCausalLM. If you know that this "
        "one is a Llama but for its name, say so in its config.json: architectures [LlamaForCausalLM], model_type "
        "llama, no auto_map; `tri-serve checkpoint inspect` then tells whether its tensors agree"
    )


def test_another_activation_is_no_llama(config: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r'hidden_act is "gelu"; silu'):
        architecture_from(config | {"hidden_act": "gelu"}, WHERE)


@pytest.mark.parametrize(
    ("written", "context"),
    [
        ({}, 64),
        ({"rope_scaling": None}, 64),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 256),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, 128),
        # Already stretched in max_position_embeddings.
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 16}}, 64),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5}}, 64),
        ({"rope_scaling": {"rope_type": "longrope"}, "original_max_position_embeddings": 16}, 16),
    ],
)
def test_context_is_what_the_engine_allows(
    config: dict[str, Any], written: dict[str, Any], context: int
) -> None:
    assert architecture_from(config | written, WHERE).context == context


def test_rope_scaling_of_another_kind_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match='rope_scaling is "yarn"; an object is needed'):
        architecture_from(config | {"rope_scaling": "yarn"}, WHERE)


@pytest.mark.parametrize(
    ("written", "window", "layers"),
    [
        ({}, None, 0),
        ({"sliding_window": None}, None, 0),
        ({"sliding_window": 0}, None, 0),
        ({"sliding_window": 16}, 16, 2),
        ({"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}, 16, 1),
        ({"sliding_window": 16, "layer_types": ["full_attention"] * 2}, 16, 0),
    ],
)
def test_layers_with_a_window_are_counted_as_the_engine_does(
    config: dict[str, Any], written: dict[str, Any], window: int | None, layers: int
) -> None:
    architecture = architecture_from(config | written, WHERE)
    assert (architecture.sliding_window, architecture.sliding_layers) == (window, layers)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such directory") as refused:
        read_architecture(tmp_path / "absent")
    assert refused.value.exit_code == 11
    assert (
        refused.value.hint
        == "check model.source, or serve the checkpoint that ships with tri-serve: tiny:awq"
    )


def test_a_file_in_place_of_the_directory_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"model\.gguf: is not a directory"):
        read_architecture(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("", "not JSON"),
        ('{"hidden_size": ', "not JSON"),
        ("[]", "a JSON object is needed, not a list"),
        ("\x00", "not JSON"),
    ],
)
def test_a_config_that_is_missing_or_broken_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{message}"):
        read_architecture(tmp_path)


def test_a_config_that_is_a_device_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="not a file"):
        read_architecture(tmp_path)


@pytest.mark.parametrize("factor", [1e308, 1e-9, 0.5, 1e9, 10**400])
@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_a_factor_that_makes_no_context_is_refused(config: dict[str, Any], kind: str, factor: float) -> None:
    scaling = {"rope_type": kind, "factor": factor}
    with pytest.raises(CheckpointError, match=r"rope_scaling\.factor is .*; a number"):
        architecture_from(config | {"rope_scaling": scaling}, WHERE)
