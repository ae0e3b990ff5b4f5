"""What presets know beyond their spec: the model before it is there, and what they say for one kind of GPU."""

from __future__ import annotations

import pytest

from tri_serve.errors import SpecError
from tri_serve.spec.load import load_spec
from tri_serve.spec.preset import load_preset, preset_names

LARGE = [name for name in preset_names() if name.startswith("tri-21b")]


@pytest.mark.parametrize("name", LARGE)
def test_a_preset_of_the_large_model_knows_its_config_json(name: str) -> None:
    config = load_preset(name).config
    assert config is not None
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["num_hidden_layers"], config["head_dim"], config["tie_word_embeddings"]) == (
        40,
        160,
        False,
    )
    # Nobody states it; a made-up one could be taken for the model's.
    assert "rope_theta" not in config
    method = config.get("quantization_config", {}).get("quant_method", "none")
    spec = load_spec(name, [], {}, ["model.source=/m"]).spec
    assert spec.model.quantization == method


def test_a_preset_that_names_a_checkpoint_leaves_its_architecture_to_it() -> None:
    assert load_preset("tri-tiny-awq").config is None


def test_a_preset_can_be_loaded_without_the_source_that_it_leaves_to_its_user() -> None:
    loaded = load_spec("tri-21b-awq", [], {}, without_source=True)
    assert loaded.spec.model.source == "preset:tri-21b-awq"
    assert not loaded.has_source
    assert str(loaded.origins["model.source"]) == "default"


def test_a_source_that_is_given_is_never_replaced() -> None:
    loaded = load_spec("tri-21b-awq", [], {}, ["model.source=/srv/m"], without_source=True)
    assert loaded.spec.model.source == "/srv/m"
    assert loaded.has_source


def test_a_spec_that_builds_on_no_preset_needs_its_source_even_then(write_spec) -> None:
    path = write_spec("model: {served_name: x}\n")
    with pytest.raises(SpecError, match=r"model\.source"):
        load_spec(None, [path], {}, without_source=True)


def test_what_a_preset_says_for_one_gpu_lies_over_it_and_under_everything_else(write_spec) -> None:
    loaded = load_spec("tri-21b-bf16", [], {}, ["model.source=/m"], gpu="l4")
    assert loaded.spec.engine.tensor_parallel_size == 4
    assert str(loaded.origins["engine.tensor_parallel_size"]) == "preset tri-21b-bf16 for l4"
    path = write_spec("preset: tri-21b-bf16\nmodel: {source: /m}\nengine: {tensor_parallel_size: 8}\n")
    assert load_spec(None, [path], {}, gpu="l4").spec.engine.tensor_parallel_size == 8


def test_a_device_that_is_chosen_is_the_engines_unless_a_flag_says_otherwise() -> None:
    loaded = load_spec("tri-21b-awq", [], {}, ["model.source=/m"], gpu="cpu")
    assert (loaded.spec.engine.device, str(loaded.origins["engine.device"])) == ("cpu", "--gpu")
    assert load_spec(None, [], {}, gpu="h100").spec.engine.device == "cuda"
    assert load_spec(None, [], {}, ["engine.device=auto"], gpu="h100").spec.engine.device == "auto"


def test_a_gpu_of_which_the_preset_says_nothing_changes_nothing() -> None:
    plain = load_spec("tri-21b-bf16", [], {}, ["model.source=/m"])
    assert load_spec("tri-21b-bf16", [], {}, ["model.source=/m"], gpu="h100").spec == plain.spec


def test_the_notes_of_a_model_stand_once_for_all_its_presets() -> None:
    assert {load_preset(name).notes for name in LARGE} == {load_preset("tri-21b-awq").notes}
    assert len(load_preset("tri-21b-awq").notes) == 2
