"""Models and devices that plans are made from, in bytes that the tests work out by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tri_serve.checkpoint.architecture import architecture_from
from tri_serve.checkpoint.quantization import QuantizationFacts
from tri_serve.checkpoint.sizes import tensor_sizes
from tri_serve.plan.facts import Gpu, ModelFacts
from tri_serve.plan.result import MemoryPlan

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
AWQ = QuantizationFacts(method="awq", bits=4, group_size=128, symmetric=False, layout="gemm")


def make_model(quantization: QuantizationFacts = AWQ, **changes: Any) -> ModelFacts:
    """Tri-21B, or that with other keys in config.json."""
    architecture = architecture_from(TRI_21B | changes, Path("config.json"))
    tensors = tensor_sizes(architecture, quantization)
    return ModelFacts(architecture, quantization, tensors, origin="a test", from_checkpoint=False)


def make_memory(**changes: Any) -> MemoryPlan:
    """A KV cache of 2,048 blocks of 16 tokens."""
    fields: dict[str, Any] = {
        "total": 24_000_000_000,
        "free": 24_000_000_000,
        "requested": 22_000_000_000,
        "terms": (),
        "kv_bytes": 32_768 * 204_800,
        "kv_dtype": "bfloat16",
        "kv_bytes_per_token": 204_800,
        "block_tokens": 16,
        "blocks": 2048,
        "kv_tokens": 32_768,
        "max_model_len": 8192,
        "full_length_sequences": 4.0,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 2048,
        "recommended": {"max_num_seqs": 256, "max_num_batched_tokens": 2048},
    }
    return MemoryPlan(**fields | changes)


def make_gpu(**changes: Any) -> Gpu:
    """A device of round numbers: 1,000 GB/s and 100 TFLOPS."""
    fields: dict[str, Any] = {
        "name": "round",
        "title": "a round one",
        "memory": 24_000_000_000,
        "bandwidth": 1e12,
        "flops": 1e14,
        "compute_capability": (8, 9),
        "link": 1e11,
    }
    return Gpu(**fields | changes)


@pytest.fixture
def model() -> Callable[..., ModelFacts]:
    return make_model


@pytest.fixture
def memory() -> Callable[..., MemoryPlan]:
    return make_memory


@pytest.fixture
def round_gpu() -> Callable[..., Gpu]:
    return make_gpu
