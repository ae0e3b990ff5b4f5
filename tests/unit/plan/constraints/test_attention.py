"""Attention backends and fp8 KV caches, by compute capability, for head_dim 160 and others."""

from collections.abc import Callable

import pytest

from tri_serve.plan.constraints import Request
from tri_serve.plan.constraints.attention import attention_backend
from tri_serve.plan.result import Finding

Ask = Callable[..., Request]
Find = Callable[[Request, str], tuple[Finding, ...]]
Only = Callable[[Request, str], Finding]


@pytest.mark.parametrize(
    ("gpu", "auto", "fp8", "e5m2"),
    [
        ("t4", "TRITON_ATTN", None, None),
        ("a10", "FLASH_ATTN", None, None),
        ("a100-80", "FLASH_ATTN", None, None),
        ("l4", "FLASH_ATTN", "TRITON_ATTN", "TRITON_ATTN"),
        ("rtx-4090", "FLASH_ATTN", "TRITON_ATTN", "TRITON_ATTN"),
        ("h100", "FLASH_ATTN", "FLASH_ATTN", "TRITON_ATTN"),
        ("b200", "FLASH_ATTN", "TRITON_ATTN", "TRITON_ATTN"),
        ("rtx-5090", "FLASH_ATTN", "TRITON_ATTN", "TRITON_ATTN"),
        ("cpu", "CPU_ATTN", "CPU_ATTN", "CPU_ATTN"),
    ],
)
def test_what_is_chosen_for_head_dim_160(
    ask: Ask, gpu: str, auto: str, fp8: str | None, e5m2: str | None
) -> None:
    chosen = [
        attention_backend(ask(gpu, engine={"kv_cache_dtype": dtype})).backend
        for dtype in ("auto", "fp8", "fp8_e5m2")
    ]
    assert chosen == [auto, fp8, e5m2]


@pytest.mark.parametrize("gpu", ["a10", "a100-40", "t4"])
def test_fp8_is_refused_where_every_backend_declines(ask: Ask, only: Only, gpu: str) -> None:
    finding = only(ask(gpu, engine={"kv_cache_dtype": "fp8"}), "fp8-kv-cache")
    assert finding.severity == "refusal"
    assert "head_dim 160" in finding.message
    assert "needs compute capability 8.9" in finding.message
    assert finding.change == {"engine.kv_cache_dtype": "auto"}


def test_fp8_works_on_an_a100_where_flashinfer_takes_the_head(ask: Ask, found: Find) -> None:
    request = ask("a100-80", engine={"kv_cache_dtype": "fp8"}, config={"head_dim": 128})
    assert attention_backend(request).backend == "FLASHINFER"
    assert found(request, "fp8-kv-cache") == ()


@pytest.mark.parametrize("gpu", ["l4", "l40s", "h100", "cpu"])
def test_fp8_passes_where_a_backend_takes_it(ask: Ask, found: Find, gpu: str) -> None:
    assert found(ask(gpu, engine={"kv_cache_dtype": "fp8"}), "fp8-kv-cache") == ()


def test_e5m2_on_a_hopper_costs_flashattention_and_e4m3_is_named(ask: Ask, only: Only) -> None:
    finding = only(ask("h100", engine={"kv_cache_dtype": "fp8_e5m2"}), "fp8-kv-cache")
    assert finding.severity == "warning"
    assert finding.change == {"engine.kv_cache_dtype": "fp8"}


def test_an_old_engine_does_not_store_fp8_on_the_cpu(ask: Ask, only: Only) -> None:
    finding = only(ask("cpu", engine={"kv_cache_dtype": "fp8", "version": "0.18.0"}), "fp8-kv-cache")
    assert finding.severity == "warning"
    assert "0.18 falls back to bfloat16" in finding.message


def test_a_backend_that_is_not_flashattention_is_named(ask: Ask, found: Find) -> None:
    (finding,) = found(ask("l4", engine={"kv_cache_dtype": "fp8"}), "attention-backend")
    assert finding.severity == "warning"
    assert (
        "runs in TRITON_ATTN, with long contexts slower than is said here: FlashAttention" in finding.message
    )
    assert found(ask("l4"), "attention-backend") == ()


def test_a_backend_that_the_user_asked_for_is_not_commented_but_refused_if_it_cannot(
    ask: Ask, found: Find
) -> None:
    asked = {"extra_args": ("--attention-backend", "TRITON_ATTN")}
    assert found(ask("l4", engine=asked), "attention-backend") == ()
    cannot = {"extra_args": ("--attention-backend=flashinfer",)}
    (finding,) = found(ask("l4", engine=cannot), "attention-backend")
    assert finding.severity == "refusal"
    assert "FLASHINFER does not take it" in finding.message


@pytest.mark.parametrize(
    "flag",
    [
        "--attention-backend=CUSTOM",
        "--attention-backend=flash_attn_diffkv",
        "--attention-config.backend=X",
        "-ac={}",
    ],
)
def test_a_backend_that_is_not_known_here_is_left_to_the_engine(ask: Ask, found: Find, flag: str) -> None:
    for dtype in ("auto", "fp8", "fp8_e5m2"):
        request = ask("a10", engine={"kv_cache_dtype": dtype, "extra_args": (flag,)})
        assert found(request, "fp8-kv-cache") == ()
        (finding,) = found(request, "attention-backend")
        assert finding.severity == "note"
        assert "not known here" in finding.message


def test_head_sizes_that_the_cpu_lacks_are_refused(ask: Ask, found: Find) -> None:
    (finding,) = found(ask("cpu", "none", config={"head_dim": 144}), "attention-backend")
    assert finding.severity == "refusal"
    assert found(ask("cpu"), "attention-backend") == ()


def test_full_precision_is_left_to_triton(ask: Ask) -> None:
    full = ask("l4", "none", engine={"dtype": "float32"})
    assert attention_backend(full).backend == "TRITON_ATTN"


def test_flashattention_4_takes_fp8_for_narrow_heads_of_newer_engines(ask: Ask) -> None:
    narrow = {"head_dim": 96}
    new = ask("b200", engine={"kv_cache_dtype": "fp8"}, config=narrow)
    assert attention_backend(new).backend == "FLASH_ATTN"
    old = ask("b200", engine={"kv_cache_dtype": "fp8", "version": "0.24.0"}, config=narrow)
    assert attention_backend(old).backend == "TRITON_ATTN"
