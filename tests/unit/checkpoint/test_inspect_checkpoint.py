"""A checkpoint that is incomplete or contradicts itself is refused with the first thing that is wrong."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tri_serve.checkpoint.inspect import inspect_checkpoint
from tri_serve.checkpoint.safetensors import NewTensor
from tri_serve.errors import CheckpointError

WriteCheckpoint = Callable[..., Path]
Tensors = dict[str, NewTensor]

PER_LAYER = 24 * 8 + 2 * 12 * 8 + 8 * 24 + 3 * 16 * 8


def test_a_whole_checkpoint_is_measured(write_checkpoint: WriteCheckpoint) -> None:
    facts = inspect_checkpoint(write_checkpoint())
    assert facts.parameters == 2 * PER_LAYER + 2 * 2 * 8 + 8 + 2 * 10 * 8
    assert facts.bytes_by_kind == {
        "embedding": 160,
        "linear_quantized": 0,
        "linear": 2 * 2 * PER_LAYER,
        "norm": 2 * (4 * 8 + 8),
        "lm_head": 160,
    }
    # Every weight is two bytes.
    assert facts.total_bytes == 2 * facts.parameters
    assert facts.kv_bytes_per_token == 2 * 2 * 2 * 6 * 2
    assert facts.tensor_count == 2 * 9 + 3
    assert facts.files == ("model.safetensors",)
    assert facts.tokenizer == "tokenizer.json"
    assert not facts.has_chat_template
    assert not facts.remote_code


def test_a_sharded_checkpoint_measures_as_one_file_does(write_checkpoint: WriteCheckpoint) -> None:
    facts = inspect_checkpoint(write_checkpoint(shards=3))
    assert facts.total_bytes == 2 * facts.parameters
    assert len(facts.files) == 3


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("chat_template.jinja", "{{ messages }}"),
        ("tokenizer_config.json", '{"chat_template": "{{ messages }}"}'),
    ],
)
def test_a_chat_template_is_found_in_either_place(
    write_checkpoint: WriteCheckpoint, file: str, text: str
) -> None:
    directory = write_checkpoint()
    (directory / file).write_text(text)
    assert inspect_checkpoint(directory).has_chat_template


def test_code_that_comes_with_the_checkpoint_is_noticed(
    write_checkpoint: WriteCheckpoint, config: dict[str, Any]
) -> None:
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_tri.TriForCausalLM"}
    assert inspect_checkpoint(write_checkpoint(config)).remote_code


def test_tied_embeddings_need_no_head(
    write_checkpoint: WriteCheckpoint, config: dict[str, Any], tensors: Tensors
) -> None:
    del tensors["lm_head.weight"]
    config["tie_word_embeddings"] = True
    facts = inspect_checkpoint(write_checkpoint(config, tensors))
    assert facts.bytes_by_kind["lm_head"] == 0


def test_another_model_that_is_called_a_llama_is_refused_by_its_tensors(
    write_checkpoint: WriteCheckpoint, tensors: Tensors
) -> None:
    tensors["model.layers.0.post_feedforward_layernorm.weight"] = NewTensor("BF16", (8,), bytes(16))
    with pytest.raises(CheckpointError, match=r"post_feedforward_layernorm\.weight is there"):
        inspect_checkpoint(write_checkpoint(tensors=tensors))


def drop(name: str) -> Callable[[dict[str, Any], Tensors], object]:
    return lambda config, tensors: tensors.pop(name)


def put(name: str, tensor: NewTensor) -> Callable[[dict[str, Any], Tensors], object]:
    return lambda config, tensors: tensors.update({name: tensor})


def say(key: str, value: object) -> Callable[[dict[str, Any], Tensors], object]:
    return lambda config, tensors: config.update({key: value})


Q_PROJ = "model.layers.1.self_attn.q_proj"
DISAGREEMENTS: dict[str, Callable[[dict[str, Any], Tensors], object]] = {
    f"{Q_PROJ}.weight is missing": drop(f"{Q_PROJ}.weight"),
    "lm_head.weight is missing": drop("lm_head.weight"),
    "model.norm.weight has shape [9], and config.json makes it [8]": put(
        "model.norm.weight", NewTensor("BF16", (9,), bytes(18))
    ),
    f"{Q_PROJ}.weight has shape [8, 24], and config.json makes it [24, 8]": put(
        f"{Q_PROJ}.weight", NewTensor("BF16", (8, 24), bytes(384))
    ),
    f"{Q_PROJ}.weight is I32; BF16 or F16 or F32 is needed": put(
        f"{Q_PROJ}.weight", NewTensor("I32", (24, 8), bytes(768))
    ),
    "model.extra.weight is there, and config.json (2 layers, hidden size 8, quantization none) has no place "
    "for it": put("model.extra.weight", NewTensor("U8", (1,), b"x")),
    # What the model card of Tri-21B gets wrong.
    "model.layers.1.input_layernorm.weight is there, and config.json (1 layers": say("num_hidden_layers", 1),
    "model.layers.2.input_layernorm.weight is missing (8 more tensors disagree)": say("num_hidden_layers", 3),
    "lm_head.weight has shape [10, 8], and config.json makes it [12, 8] (1 more": say("vocab_size", 12),
    "q_proj.qweight is missing": say("quantization_config", {"quant_method": "awq", "bits": 4}),
}


@pytest.mark.parametrize("message", DISAGREEMENTS)
def test_weights_that_contradict_config_json_are_refused(
    write_checkpoint: WriteCheckpoint, config: dict[str, Any], tensors: Tensors, message: str
) -> None:
    DISAGREEMENTS[message](config, tensors)
    directory = write_checkpoint(config, tensors)
    with pytest.raises(CheckpointError, match=re.escape(message)) as refused:
        inspect_checkpoint(directory)
    assert refused.value.path == directory
    assert "config.json must be the one that was saved with these weights" in str(refused.value.hint)


@pytest.mark.parametrize("optional", [f"{Q_PROJ}.bias", "model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_tensors_that_tools_add_are_taken(
    write_checkpoint: WriteCheckpoint, tensors: Tensors, optional: str
) -> None:
    tensors[optional] = NewTensor("F32", (24,), bytes(96))
    assert inspect_checkpoint(write_checkpoint(tensors=tensors)).tensor_count == 2 * 9 + 4


def test_a_truncated_shard_is_refused(write_checkpoint: WriteCheckpoint) -> None:
    directory = write_checkpoint(shards=2)
    shard = directory / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.*truncated"):
        inspect_checkpoint(directory)


def test_a_missing_shard_is_named(write_checkpoint: WriteCheckpoint) -> None:
    directory = write_checkpoint(shards=3)
    (directory / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="1 of 3 weight files are missing: model-00002-of-00003"):
        inspect_checkpoint(directory)


def change_index(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = directory / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(ghost="model-00001-of-00002.safetensors"), "that no file has: ghost"),
        (lambda m: m.pop("model.norm.weight"), "the index says nothing of it"),
        (
            lambda m: m.update({"model.norm.weight": "model-00001-of-00002.safetensors"}),
            "model.norm.weight is in model-00002-of-00002.safetensors, and the index says",
        ),
        (lambda m: m.update(evil="../../secret.safetensors"), "a plain file name is needed"),
        (lambda m: m.update(evil=3), "a plain file name is needed"),
        (lambda m: m.clear(), "weight_map is needed"),
    ],
)
def test_an_index_that_contradicts_its_files_is_refused(
    write_checkpoint: WriteCheckpoint, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    directory = write_checkpoint(shards=2)
    change_index(directory, change)
    with pytest.raises(CheckpointError, match=message):
        inspect_checkpoint(directory)


def test_a_directory_without_weights_says_which_file_is_needed(write_checkpoint: WriteCheckpoint) -> None:
    directory = write_checkpoint()
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*it has pytorch_model\.bin") as refused:
        inspect_checkpoint(directory)
    assert "convert the checkpoint to safetensors" in str(refused.value.hint)


def test_a_checkpoint_without_a_tokenizer_is_refused(write_checkpoint: WriteCheckpoint) -> None:
    directory = write_checkpoint()
    (directory / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer: one of tokenizer\.json"):
        inspect_checkpoint(directory)


def test_a_tokenizer_cut_short_is_refused(write_checkpoint: WriteCheckpoint) -> None:
    directory = write_checkpoint()
    (directory / "tokenizer.json").write_text('{"model": {"vocab"')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not JSON"):
        inspect_checkpoint(directory)
