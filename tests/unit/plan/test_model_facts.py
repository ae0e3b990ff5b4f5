"""Which facts a plan is made from: the checkpoint's if it is here, else the preset's, and what is said of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tri_serve.checkpoint.sizes import write_hollow_checkpoint
from tri_serve.errors import CheckpointError
from tri_serve.plan.facts import ModelFacts
from tri_serve.plan.model import model_facts
from tri_serve.spec.engine import ModelSpec
from tri_serve.spec.models import Spec
from tri_serve.spec.preset import Preset, load_preset

SMALL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"

Facts = Callable[..., ModelFacts]


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    """The facts of a source, with a Hugging Face cache and a cache of ours that are empty."""

    def find(source: str, preset: Preset | None = None) -> ModelFacts:
        spec = Spec(model=ModelSpec(source=source, served_name="small"))
        environ = {"HF_HUB_CACHE": str(tmp_path / "hub")}
        return model_facts(spec, preset, tmp_path / "cache", environ)

    return find


def test_a_directory_is_read(facts: Facts, tmp_path: Path) -> None:
    write_hollow_checkpoint(tmp_path / "small", SMALL)
    found = facts(str(tmp_path / "small"), load_preset("tri-21b-awq"))
    assert found.from_checkpoint
    assert found.origin == f"checkpoint {tmp_path / 'small'}"
    assert found.weight_bytes == found.architecture.parameters * 2
    assert (found.remote_code, found.remarks) == (False, ())


def test_the_checkpoint_that_ships_is_read(facts: Facts) -> None:
    found = facts("tiny:gptq")
    assert found.from_checkpoint
    assert found.quantization.method == "gptq"


def test_a_hub_name_in_the_local_cache_is_a_checkpoint(facts: Facts, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--acme--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    write_hollow_checkpoint(repository / "snapshots" / COMMIT, SMALL)
    assert facts("acme/small").from_checkpoint


def test_a_hub_name_that_is_not_there_is_planned_from_the_preset_and_said_so(facts: Facts) -> None:
    found = facts("acme/small", load_preset("tri-21b-awq"))
    assert not found.from_checkpoint
    assert found.origin == "from preset tri-21b-awq"
    assert found.weight_bytes == 12_654_315_520
    assert found.remarks[0].startswith(
        "not planned from model.source, which is not here: model.source is acme/small"
    )


def test_a_preset_without_a_source_is_planned_from_what_it_knows(facts: Facts) -> None:
    found = facts("preset:tri-21b-gptq", load_preset("tri-21b-gptq"))
    assert found.origin == "from preset tri-21b-gptq"
    assert found.weight_bytes == 12_663_613_440
    assert len(found.remarks) == 1


def test_without_a_preset_there_is_nothing_to_plan_with(facts: Facts) -> None:
    with pytest.raises(CheckpointError, match="acme/small"):
        facts("acme/small")


def test_a_damaged_checkpoint_is_not_planned_around(facts: Facts, tmp_path: Path) -> None:
    write_hollow_checkpoint(tmp_path / "small", SMALL)
    next((tmp_path / "small").glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="weight files are missing"):
        facts(str(tmp_path / "small"), load_preset("tri-21b-awq"))


def test_config_json_alone_is_enough(facts: Facts, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {"auto_map": {"AutoConfig": "x.Y"}}))
    found = facts(str(tmp_path))
    assert not found.from_checkpoint
    assert found.origin == f"config.json of {tmp_path}"
    assert found.weight_bytes == found.architecture.parameters * 2
    assert found.remote_code
    assert found.remarks == (f"{tmp_path} has no weights yet: their sizes are computed from config.json",)


def test_an_empty_directory_is_refused(facts: Facts, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        facts(str(tmp_path), load_preset("tri-21b-awq"))


def test_a_tied_head_that_is_stored_again_is_not_counted(facts: Facts, tmp_path: Path) -> None:
    write_hollow_checkpoint(tmp_path / "small", SMALL)
    config = tmp_path / "small" / "config.json"
    config.write_text(json.dumps(SMALL | {"tie_word_embeddings": True}))
    found = facts(str(tmp_path / "small"))
    assert "lm_head.weight" not in found.tensors
    assert found.weight_bytes == found.architecture.parameters * 2


def remarks(tmp_path: Path, facts: Facts, **changes: Any) -> tuple[str, ...]:
    config = {**SMALL, **changes}
    write_hollow_checkpoint(tmp_path / "model", config)
    return facts(str(tmp_path / "model")).remarks


TRI_21B = {
    "hidden_size": 5120,
    "intermediate_size": 27392,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 160,
    "vocab_size": 124416,
}


def test_the_card_is_not_believed_where_parameters_speak_against_it(tmp_path: Path, facts: Facts) -> None:
    assert remarks(tmp_path, facts, **TRI_21B, num_hidden_layers=40) == (
        "the model card of Tri-21B says 32 layers; 40 are believed: they make 20,725,519,360 parameters, and 32 "
        "would make 16,835,220,480, where the card says 20.73B",
    )


def test_a_checkpoint_cut_to_what_the_card_says_is_not_the_whole_model(tmp_path: Path, facts: Facts) -> None:
    (remark,) = remarks(tmp_path, facts, **TRI_21B, num_hidden_layers=32)
    assert "16,835,220,480 parameters" in remark
    assert remark.endswith("this is not the whole model")


@pytest.mark.parametrize(
    ("written", "layers"),
    [
        ({"sliding_window": 128}, 2),
        ({"sliding_window": 128, "layer_types": ["full_attention", "sliding_attention"]}, 1),
        ({"sliding_window": 512}, None),
    ],
)
def test_windows_are_said_to_be_planned_as_full_attention(
    tmp_path: Path, facts: Facts, written: dict[str, Any], layers: int | None
) -> None:
    found = remarks(tmp_path, facts, **written)
    assert [remark.split(" look")[0] for remark in found] == ([f"{layers} of 2 layers"] if layers else [])
