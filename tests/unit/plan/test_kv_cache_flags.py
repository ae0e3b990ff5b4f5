"""What flags of the engine say of the KV cache, and what they cannot say."""

import pytest

from tri_serve.plan.kv_cache import block_tokens, given_kv_bytes
from tri_serve.spec.engine import EngineSpec


@pytest.mark.parametrize(
    ("text", "size"), [("32", 32), ("0", 16), ("²", 16), ("٣", 16), ("8k", 16), ("9" * 5000, 16)]
)
def test_a_block_has_the_size_that_the_engine_would_read(text: str, size: int) -> None:
    assert block_tokens(EngineSpec(extra_args=(f"--block-size={text}",)), 16) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("4K", 4096),
        ("1.5k", 1500),
        ("²", None),
        ("9" * 5000, None),
        ("9" * 400 + "k", None),
    ],
)
def test_the_cache_has_the_size_that_the_engine_would_read(text: str, size: int | None) -> None:
    assert given_kv_bytes(EngineSpec(extra_args=("--kv-cache-memory-bytes", text))) == size
