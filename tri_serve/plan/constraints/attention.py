"""Rules on attention: which backend vLLM chooses, and which KV cache it takes.

The order and the conditions are those of vLLM 0.32.0: platforms/cuda.py (_get_backend_priorities),
v1/attention/backends/{flash_attn,fa_utils,flashinfer,triton_attn,cpu_attn}.py; 0.24 and 0.29 say the same of the
types and sizes here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tri_serve.plan.constraints.request import Request, Version
from tri_serve.plan.constraints.rule import Found, Rule
from tri_serve.plan.flags import flags_in, value_of

FLASH, FLASHINFER, TRITON, FLEX = "FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "FLEX_ATTENTION"
CPU = "CPU_ATTN"
FLASHINFER_SIZES = (64, 128, 256, 512)
CPU_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
CPU_FP8_SINCE: Version = (0, 24)
"""First version read whose CPU attention stores fp8; 0.18 warns and keeps the KV cache in ``dtype``."""

FLASH_4_FP8_SINCE: Version = (0, 27)
"""First version read in which FlashAttention offers itself for fp8 on compute capability 10; 0.24 does not."""


@dataclass(frozen=True)
class Choice:
    """What vLLM chooses; ``backend`` none: nothing, or something that then fails, for the reason given."""

    backend: str | None
    reason: str = ""
    known: bool = True
    """Whether the conditions of ``backend`` were read; of one that the user names they may not have been."""


def attention_backend(request: Request) -> Choice:
    """The attention backend that vLLM would choose, as its log names it."""
    capability = request.device.gpu.compute_capability
    head = request.model.architecture.head_dim
    if capability is None:
        return Choice(CPU) if head in CPU_SIZES else Choice(None, f"the CPU's takes {_listed(CPU_SIZES)}")
    fp8 = _kv_dtype(request)
    order: tuple[str, ...] = (FLASH, FLASHINFER, TRITON, FLEX)
    if capability[0] == 10:
        order = (FLASHINFER, FLASH, TRITON, FLEX)
    if (asked := _asked(request)) is not None:
        if asked not in order:
            return Choice(asked, f"the conditions of {asked} are not known here", known=False)
        order = (asked,)
    backend = next((name for name in order if _selects(name, request, capability, fp8)), None)
    if backend is None:
        return Choice(None, f"{' and '.join(order)} {'does' if len(order) == 1 else 'do'} not take it")
    # What is looked at only when the layers are made: the choice is then final.
    if backend == TRITON and fp8 and capability < (8, 9):
        return Choice(
            None, f"{TRITON} is left, and its fp8 needs compute capability 8.9 (the native type fp8e4nv)"
        )
    return Choice(backend)


def _asked(request: Request) -> str | None:
    """The backend that the user names; in words, where --attention-config may name one."""
    arguments = request.spec.engine.extra_args
    if (named := value_of(arguments, "--attention-backend")) is not None:
        return named.upper()
    names = [
        flag.written for flag in flags_in(arguments) if flag.name.partition(".")[0] == "--attention-config"
    ]
    names += [word for word in arguments if word.partition("=")[0] == "-ac"]
    return f"what {names[-1].partition('=')[0]} says" if names else None


def _selects(name: str, request: Request, capability: tuple[int, int], fp8: str | None) -> bool:
    """Whether the backend's own conditions let it be chosen."""
    head, half = request.model.architecture.head_dim, request.dtype != "float32"
    if name == FLASH:
        # FlashAttention 3 (compute capability 9) and 4 (10) take fp8, the latter for heads up to 128; 2, which is
        # what other devices and heads get, does not, and none takes e5m2.
        fourth = capability[0] == 10 and head <= 128 and request.version >= FLASH_4_FP8_SINCE
        types = fp8 is None or (fp8 != "fp8_e5m2" and (capability[0] == 9 or fourth))
        return capability >= (8, 0) and half and head % 8 == 0 and head <= 256 and types
    if name == FLASHINFER:
        return (8, 0) <= capability <= (12, 1) and half and head in FLASHINFER_SIZES
    if name == TRITON:
        return head >= 32
    return name == FLEX and fp8 is None


def _kv_dtype(request: Request) -> str | None:
    """The 8-bit type that the KV cache would have; None if it is kept in 16 bits."""
    asked = request.spec.engine.kv_cache_dtype
    return asked if asked.startswith("fp8") else None


def _listed(sizes: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, sizes[:-1]))} and {sizes[-1]}"


def _fp8(request: Request) -> Iterator[Found]:
    fp8, capability = _kv_dtype(request), request.device.gpu.compute_capability
    if fp8 is None:
        return
    head = request.model.architecture.head_dim
    if capability is None:
        if request.version < CPU_FP8_SINCE:
            yield Found(
                "warning",
                f"{request.engine} is not known to store fp8 on the CPU: 0.18 falls back to "
                f"{request.dtype}, and the KV cache then holds half of what is planned; 0.24 does store it",
                change={"engine.kv_cache_dtype": "auto"},
            )
        return
    where = f"{request.device.gpu.title} (compute capability {capability[0]}.{capability[1]})"
    choice = attention_backend(request)
    if choice.backend is None:
        yield Found(
            "refusal",
            f"a KV cache in {fp8} does not work with head_dim {head} on {where}: {choice.reason}",
            change=_works_instead(request),
            advice="fp8 at this head_dim needs compute capability 8.9 (L4, L40S, RTX 4090) or 9.0 (H100, H200)",
        )
    elif choice.known and choice.backend != FLASH and capability[0] == 9 and fp8 == "fp8_e5m2":
        yield Found(
            "warning",
            f"fp8_e5m2 makes vLLM choose {choice.backend} on {where}: FlashAttention 3, which is faster "
            "there, takes fp8_e4m3 only",
            change={"engine.kv_cache_dtype": "fp8"},
        )


def _works_instead(request: Request) -> dict[str, str]:
    """fp8 in another form if that works, or 16 bits."""
    for other in ("fp8", "auto"):
        change = {"engine.kv_cache_dtype": other}
        if attention_backend(request.changed(change)).backend is not None:
            return change
    return {}


FP8_KV = Rule(
    "fp8-kv-cache",
    "With `kv_cache_dtype: fp8…` there is an attention backend that takes it, for this head_dim on this GPU.",
    "vLLM 0.32.0: platforms/cuda.py, v1/attention/backends/triton_attn.py (TritonAttentionImpl: fp8 needs "
    "8.9), fa_utils.py (flash_attn_supports_kv_cache_dtype), flashinfer.py (head sizes), cpu_attn.py; the "
    "same in 0.24, 0.29",
    ("refusal", "warning"),
    _fp8,
)


def _backend(request: Request) -> Iterator[Found]:
    head, capability = request.model.architecture.head_dim, request.device.gpu.compute_capability
    choice = attention_backend(request)
    if not choice.known:
        yield Found(
            "note",
            f"{choice.reason}: whether it takes head_dim {head} and a KV cache in "
            f"{_kv_dtype(request) or request.dtype} on {request.device.gpu.title}, the engine says when it starts",
        )
        return
    if choice.backend is None and _kv_dtype(request) is None:
        yield Found(
            "refusal",
            f"no attention backend for head_dim {head} on {request.device.gpu.title}: {choice.reason}",
            advice="leave --attention-backend out" if capability else "serve this model on a GPU",
        )
    elif choice.backend not in (None, CPU, FLASH) and _asked(request) is None:
        preferred = capability is not None and capability[0] == 10 and choice.backend == FLASHINFER
        if not preferred:
            kept = _kv_dtype(request) or request.dtype
            yield Found(
                "warning",
                f"attention runs in {choice.backend}, with long contexts slower than is said here: FlashAttention "
                f"does not take head_dim {head} with a KV cache in {kept} on {request.device.gpu.title}",
            )


BACKEND = Rule(
    "attention-backend",
    "There is an attention backend for the model's head_dim; one that is not FlashAttention is named.",
    "vLLM 0.32.0: platforms/cuda.py (get_valid_backends), v1/attention/backends/*.py (supports_head_size)",
    ("refusal", "warning", "note"),
    _backend,
)

RULES = (FP8_KV, BACKEND)
