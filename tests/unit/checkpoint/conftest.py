"""A small whole checkpoint to damage, in a shape that is nobody's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tri_serve.checkpoint.safetensors import NewTensor, write_file

SMALL_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "vocab_size": 10,
    "max_position_embeddings": 64,
    "torch_dtype": "bfloat16",
}

SMALL_LAYER = {
    "input_layernorm": [8],
    "post_attention_layernorm": [8],
    "self_attn.q_proj": [24, 8],
    "self_attn.k_proj": [12, 8],
    "self_attn.v_proj": [12, 8],
    "self_attn.o_proj": [8, 24],
    "mlp.gate_proj": [16, 8],
    "mlp.up_proj": [16, 8],
    "mlp.down_proj": [8, 16],
}


def bf16(*shape: int) -> NewTensor:
    count = 1
    for size in shape:
        count *= size
    return NewTensor("BF16", shape, bytes(2 * count))


def small_tensors() -> dict[str, NewTensor]:
    tensors = {
        "model.embed_tokens.weight": bf16(10, 8),
        "model.norm.weight": bf16(8),
        "lm_head.weight": bf16(10, 8),
    }
    for layer in range(2):
        for name, shape in SMALL_LAYER.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = bf16(*shape)
    return tensors


@pytest.fixture
def tensors() -> dict[str, NewTensor]:
    return small_tensors()


@pytest.fixture
def config() -> dict[str, Any]:
    return json.loads(json.dumps(SMALL_CONFIG))


WriteCheckpoint = Callable[..., Path]


@pytest.fixture
def write_checkpoint(tmp_path: Path) -> WriteCheckpoint:
    def write(
        config: dict[str, Any] = SMALL_CONFIG, tensors: dict[str, NewTensor] | None = None, shards: int = 1
    ) -> Path:
        directory = tmp_path / "checkpoint"
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(config))
        (directory / "tokenizer.json").write_text("{}")
        tensors = small_tensors() if tensors is None else tensors
        if shards == 1:
            write_file(directory / "model.safetensors", tensors)
            return directory
        weight_map = {}
        for index in range(shards):
            file = f"model-{index + 1:05}-of-{shards:05}.safetensors"
            part = dict(list(tensors.items())[index::shards])
            write_file(directory / file, part)
            weight_map |= dict.fromkeys(part, file)
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return directory

    return write
