"""What was measured, as ``plan calibrate`` reads it: our own JSON, or what ``vllm bench serve`` writes.

Our own is a list, or an object with it under ``measurements``, of objects with the fields of ``Measurement``.
``vllm bench serve --save-result`` (vLLM 0.32, vllm/benchmarks/serve.py) does not say on which GPU it ran: that is
given on the command line, or to vLLM as ``--metadata gpu=l4 version=0.32.0 quantization=awq tensor_parallel=1``.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tri_serve.checkpoint.quantization import Method
from tri_serve.errors import UsageError
from tri_serve.plan.calibration_table import MOST_BATCH
from tri_serve.plan.catalogue import find_gpu

_MOST_BYTES = 64 * 2**20
"""With --save-detailed a long benchmark writes some megabytes; more is no result."""
_LEAST, _MOST = 1e-6, 1e15
"""Of any figure of a benchmark, whatever its unit."""
_OPTIONS = {"gpu": "--gpu", "version": "--engine-version", "quantization": "--preset"}
"""Where ``plan calibrate`` takes what a result does not say; the preset says how weights are stored."""
_FORMAT = "docs/calibrate.md shows the fields; 'vllm bench serve --save-result' writes such a file"


class Measurement(BaseModel):
    """One point: how fast an engine was."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    gpu: Annotated[str, Field(min_length=1)]
    """A device of the catalogue."""
    engine: Literal["vllm", "sglang"] = "vllm"
    version: Annotated[str, Field(pattern=r"^\d+\.\d+([.+a-z0-9]*)$")]
    """Of the engine: ``0.32.0``."""
    quantization: Method
    """How the weights were stored."""
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    kind: Literal["decode", "prefill"]
    batch: Annotated[int, Field(ge=1, le=MOST_BATCH)] = 1
    """Sequences at once."""
    context: Annotated[int, Field(ge=1, le=16_777_216)]
    """Decode: tokens behind each sequence, on average. Prefill: tokens of each prompt."""
    tokens_per_second: Annotated[float, Field(ge=1e-3, le=1e9, allow_inf_nan=False)]
    """Of all sequences together. Decode: tokens generated. Prefill: tokens of prompts, until the first answer."""
    kv_cache_dtype: Literal["bfloat16", "fp8"] = "bfloat16"
    provenance: Annotated[str, Field(min_length=1)]
    """What was run, where and when, so that somebody can do it again."""

    @property
    def seconds(self) -> float:
        """Of one step (decode), or until all prompts were read (prefill)."""
        tokens = self.batch if self.kind == "decode" else self.batch * self.context
        return tokens / self.tokens_per_second

    def __str__(self) -> str:
        return f"{self.kind} on {self.gpu}, batch {self.batch}, context {self.context}"


@dataclass(frozen=True, slots=True)
class Setting:
    """What a result does not say by itself; none: it must."""

    gpu: str | None = None
    engine: str | None = None
    version: str | None = None
    quantization: str | None = None
    tensor_parallel: int | None = None
    kv_cache_dtype: str | None = None

    def fields(self) -> dict[str, Any]:
        names = ("gpu", "engine", "version", "quantization", "tensor_parallel", "kv_cache_dtype")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def read_measurements(path: Path, setting: Setting | None = None) -> tuple[Measurement, ...]:
    """The points of one file. ``setting`` fills in what the file leaves out; what the file says goes first.

    Raises UsageError, in one line, if the file cannot be read or does not hold measurements.
    """
    known = (setting or Setting()).fields()
    found: list[Measurement] = []
    for document in _documents(path):
        if isinstance(document, dict) and isinstance(document.get("measurements"), list):
            document = document["measurements"]
        if isinstance(document, list):
            found += (_measurement(item, index, path, known) for index, item in enumerate(document, 1))
        elif isinstance(document, dict) and {"total_output_tokens", "median_tpot_ms"} <= document.keys():
            found += _from_bench_serve(document, path, known)
        else:
            raise UsageError(f"{path}: {_unusable(document)}", hint=_FORMAT)
    if not found:
        raise UsageError(f"{path}: holds no measurements", hint=_FORMAT)
    return tuple(found)


def _documents(path: Path) -> Iterator[Any]:
    """The JSON values of a file, of which ``vllm bench serve --append-result`` writes several."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{path}: larger than {_MOST_BYTES // 2**20} MiB; no result is")
        text = path.read_text(encoding="utf-8").strip()
        decoder, at = json.JSONDecoder(), 0
        while at < len(text):
            document, at = decoder.raw_decode(text, at)
            yield document
            at += len(text[at:]) - len(text[at:].lstrip())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no JSON: {error}", hint=_FORMAT) from error


def _measurement(item: Any, index: int, path: Path, known: Mapping[str, Any]) -> Measurement:
    if not isinstance(item, dict):
        raise UsageError(f"{path}: measurement {index} is no object", hint=_FORMAT)
    for key in item.keys() - Measurement.model_fields.keys():
        near = difflib.get_close_matches(str(key), Measurement.model_fields, n=1, cutoff=0.5)
        said = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(
            f"{path}: measurement {index}: there is no key {str(key)[:40]!r}{said}", hint=_FORMAT
        )
    try:
        measurement = Measurement.model_validate({**known, **item})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: measurement {index}: {key}: {first['msg']}", hint=_FORMAT) from error
    try:
        return measurement.model_copy(update={"gpu": find_gpu(measurement.gpu).name})
    except UsageError as error:
        raise UsageError(f"{path}: measurement {index}: {error.message}", hint=error.hint) from error


def _from_bench_serve(
    result: Mapping[str, Any], path: Path, known: Mapping[str, Any]
) -> Iterator[Measurement]:
    """Decode from the median time between tokens; prefill from the median TTFT if nothing else was running."""

    def number(key: str) -> float:
        value = result.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _LEAST <= value <= _MOST:
            shown = repr(value)[:40]
            raise UsageError(
                f"{path}: {key} is {shown}; a number from {_LEAST:g} to {_MOST:g} is needed", hint=_FORMAT
            )
        return float(value)

    if "spec_decode_acceptance_length" in result:
        raise UsageError(
            f"{path}: was measured with speculative decoding, where a step is not a token; measure without"
        )
    # --metadata gives text only.
    stated = {key: result[key] for key in Setting.__slots__ if isinstance(result.get(key), str)}
    if re.fullmatch(r"\d{1,4}", stated.get("tensor_parallel", "")):
        stated["tensor_parallel"] = int(stated["tensor_parallel"])
    missing = [key for key in ("gpu", "version", "quantization") if key not in {**known, **stated}]
    if missing:
        raise UsageError(
            f"{path}: does not say {' and '.join(missing)}",
            hint=f"give {' and '.join(_OPTIONS[key] for key in missing)}, or measure with "
            f"--metadata {' '.join(f'{key}=…' for key in missing)}",
        )
    requests = number("completed")
    prompt, answer = number("total_input_tokens") / requests, number("total_output_tokens") / requests
    said = f"{path.name}: vllm bench serve, {result.get('model_id')}, {result.get('date')}"
    if answer > 1:
        # Little's law: sequences that are generating = their rate times the time that each generates.
        generating = requests * number("mean_tpot_ms") / 1000 * (answer - 1) / number("duration")
        batch = max(1, round(generating))
        # Most gaps between tokens are plain decode steps; the mean has those in it that carry a prompt.
        gap = number("median_itl_ms" if result.get("median_itl_ms") else "median_tpot_ms") / 1000
        fields = {"kind": "decode", "batch": batch, "context": round(prompt + answer / 2)}
        yield _measurement(
            stated | fields | {"tokens_per_second": batch / gap, "provenance": said}, 1, path, known
        )
    if result.get("max_concurrency") == 1:
        fields = {"kind": "prefill", "batch": 1, "context": round(prompt)}
        rate = 1000 * prompt / number("median_ttft_ms")
        yield _measurement(stated | fields | {"tokens_per_second": rate, "provenance": said}, 2, path, known)


def _unusable(document: Any) -> str:
    if isinstance(document, dict) and {"avg_latency", "latencies"} <= document.keys():
        return "written by vllm bench latency, which says neither batch size nor lengths"
    if isinstance(document, dict) and {"elapsed_time", "total_num_tokens"} <= document.keys():
        return "written by vllm bench throughput, which does not tell prompts from answers"
    return "holds no measurements that we know"
