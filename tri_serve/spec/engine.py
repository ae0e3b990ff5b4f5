"""What is served and by what: the ``model`` and ``engine`` parts of the spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tri_serve.spec.fields import (
    ImageName,
    NoFlag,
    OneWord,
    Seconds,
    SecondsOrZero,
    SpecModel,
    TokenCount,
    about_key,
)

VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Quantization = Literal["auto", "none", "awq", "gptq", "compressed-tensors", "bitsandbytes"]

EngineKind = Literal["vllm", "sglang"]
Version = Annotated[str, Field(pattern=r"^\d+\.\d+(\.\d+)?([.a-z0-9]+)?$", examples=["0.32.0"])]

TESTED_VERSIONS: Mapping[EngineKind, str] = {"vllm": "0.32.0", "sglang": "0.5.23"}
"""Of each engine, the version that tri-serve knows best, which a spec has unless it says another."""


class ModelSpec(SpecModel):
    """The model: where its checkpoint is and under which name clients ask for it."""

    source: Annotated[NoFlag, Field(min_length=1)]
    """A directory with config.json and safetensors files, a hub repository (owner/name), or ``tiny:awq``,
    ``tiny:gptq``, ``tiny:ct``, ``tiny:bnb4``, ``tiny:bf16``: the checkpoint that ships with tri-serve, in that
    format."""
    revision: OneWord | None = None
    """Branch, tag or commit of a hub repository; none means its default branch."""
    served_name: Annotated[
        str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")
    ]
    """The name that clients put in ``model``."""
    quantization: Quantization = "auto"
    """``auto`` reads it from config.json, which is right for every pre-quantised checkpoint; another value
    must agree with what config.json says."""
    max_model_len: TokenCount | None = None
    """Tokens of context, prompt and answer together; none takes the checkpoint's own limit. A number, or text
    as vLLM's ``--max-model-len`` takes it: ``8k`` is 8,000 and ``8K`` is 8,192."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint. Off: that code can do anything the engine can."""


class EngineSpec(SpecModel):
    """The engine: which server, from which environment, with which limits."""

    kind: EngineKind = "vllm"
    """The engine's make. ``sglang`` is rendered; what tri-serve starts and watches over itself is vLLM."""
    version: Version = TESTED_VERSIONS["vllm"]
    """The engine's version; the default is the one that tri-serve is tested with (of SGLang: 0.5.23)."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """``auto``: CUDA if an NVIDIA driver is on this machine, else the CPU."""
    python: str | None = None
    """A Python that can import vllm: your own engine environment in place of the managed one."""
    command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The command that starts the server in place of ``vllm serve``, e.g. ``[/opt/vllm/bin/vllm, serve]``;
    model and flags are appended."""
    image: ImageName | None = None
    """A container image with the engine; used by targets that run containers."""
    dtype: Literal["bfloat16", "float16", "float32", "auto"] = "bfloat16"
    """Type of activations and unquantised weights. bfloat16: what the models were trained in."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.92
    """Share of the GPU's memory that the engine may take; vLLM's own default. Not used on the CPU."""
    cpu_kv_cache_gib: Annotated[float, Field(gt=0, le=1024)] = 1.0
    """GiB of KV cache on the CPU backend (VLLM_CPU_KVCACHE_SPACE). Not used on a GPU."""
    cpu_threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """OpenMP threads of one engine on the CPU; none shares all cores but one of its machine among the replicas
    there, as many as the fleet may come to have."""
    cpu_nice: Annotated[int, Field(ge=0, le=19)] = 10
    """How far an engine on the CPU stands back (nice(1)) where more programs want the cores than there are: behind
    the gateway and clients on the same machine. 10: it gets a tenth of what each of them gets, and all that they
    leave. Not used on a GPU, nor for engines that are rendered."""
    tensor_parallel_size: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs that one engine is spread over; each replica has that many of its own."""
    kv_cache_dtype: Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2"] = "auto"
    """``auto`` keeps the KV cache in ``dtype``."""
    max_num_seqs: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Sequences decoded at once; none takes the engine's default."""
    max_num_batched_tokens: TokenCount | None = None
    """Tokens of one engine step; none takes the engine's default."""
    extra_args: tuple[str, ...] = ()
    """Further flags, passed on as they are. Secrets do not belong here: argv is readable by every user."""
    env: dict[VariableName, str] = Field(default={}, repr=False)
    """Further environment variables of the engine. Values whose name says TOKEN, KEY, SECRET, PASSWORD, AUTH or
    the like are never printed. CUDA_VISIBLE_DEVICES names the GPUs of the fleet, which its replicas share out."""
    shutdown_timeout: SecondsOrZero = 30.0
    """Seconds that a stopping engine may use to finish what it has in flight (vLLM's --shutdown-timeout)."""
    start_timeout: Seconds = 600.0
    """Seconds until a started engine must answer. 600: a 13 GB checkpoint from a slow disk, and compilation."""

    @model_validator(mode="after")
    def _version_of_the_kind(self) -> Self:
        if "version" not in self.model_fields_set:
            # A validator before the model would see JSON as Python, whose lists are no tuples to a strict model; a
            # default factory is an error of its own where the kind is one; and nothing assigns to a frozen model.
            object.__setattr__(self, "version", TESTED_VERSIONS[self.kind])
        return self

    @model_validator(mode="after")
    def _one_environment(self) -> Self:
        named = [name for name in ("python", "command", "image") if getattr(self, name) is not None]
        if len(named) > 1:
            raise about_key(
                named[-1], f"{' and '.join(named)} exclude each other: name one engine environment"
            )
        return self
