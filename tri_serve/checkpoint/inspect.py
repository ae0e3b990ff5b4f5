"""Look a checkpoint over without torch: what it is, how large its parts are, and whether it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tri_serve.checkpoint.architecture import Architecture, architecture_from
from tri_serve.checkpoint.config_file import CONFIG, read_config, read_json_object
from tri_serve.checkpoint.layout import Expected, Kind, expected_tensors
from tri_serve.checkpoint.quantization import QuantizationFacts, quantization_from
from tri_serve.checkpoint.safetensors import Tensor
from tri_serve.checkpoint.shards import COPY_HINT, read_tensors
from tri_serve.checkpoint.sizes import TensorSize
from tri_serve.errors import CheckpointError

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json")
"""Files that an engine can make a tokenizer from, best first."""


@dataclass(frozen=True)
class CheckpointFacts:
    """A whole checkpoint. Bytes are of tensors as they lie in the files."""

    path: Path
    architecture: Architecture
    quantization: QuantizationFacts
    parameters: int
    """Weights of the model; a quantised weight counts as one."""
    tensor_count: int
    files: tuple[str, ...]
    """The safetensors files, by name."""
    bytes_by_kind: Mapping[Kind, int]
    tokenizer: str
    """The tokenizer's file."""
    has_chat_template: bool
    """Whether chat completions work without a template of your own."""
    remote_code: bool
    """Whether config.json wants Python code of the checkpoint to be run."""
    tensors: Mapping[str, TensorSize]
    """Every tensor, by name."""

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes_by_kind.values())

    @property
    def kv_bytes_per_token(self) -> int:
        """In bfloat16; half of it in fp8."""
        return self.architecture.kv_bytes_per_token()


def inspect_checkpoint(path: Path) -> CheckpointFacts:
    """The facts of the checkpoint in directory ``path``, read from JSON files and safetensors headers.

    Raises CheckpointError if it is not there, damaged, incomplete, or disagrees with its own config.json.
    """
    config = read_config(path)
    where = path / CONFIG
    architecture = architecture_from(config, where)
    quantization = quantization_from(config, where)
    tensors = read_tensors(path)
    kinds = _check(path, architecture, quantization, tensors)
    tokenizer = _tokenizer(path)
    sizes: dict[Kind, int] = dict.fromkeys(("embedding", "linear_quantized", "linear", "norm", "lm_head"), 0)
    for name, tensor in tensors.items():
        sizes[kinds[name].kind] += tensor.nbytes
    return CheckpointFacts(
        path=path,
        architecture=architecture,
        quantization=quantization,
        parameters=architecture.parameters,
        tensor_count=len(tensors),
        files=tuple(sorted({tensor.file.name for tensor in tensors.values()})),
        bytes_by_kind=sizes,
        tokenizer=tokenizer,
        has_chat_template=_has_chat_template(path),
        remote_code="auto_map" in config,
        tensors={
            name: TensorSize(kinds[name].kind, tensor.dtype, tensor.shape, tensor.nbytes)
            for name, tensor in tensors.items()
        },
    )


def _check(
    path: Path,
    architecture: Architecture,
    quantization: QuantizationFacts,
    tensors: Mapping[str, Tensor],
) -> Mapping[str, Expected]:
    """What each tensor is. Raises CheckpointError naming the first disagreement and how many more there are."""
    expected = expected_tensors(architecture, quantization)
    problems = [
        f"{name} has shape {list(tensor.shape)}, and config.json makes it {list(shape)}"
        for name, tensor in tensors.items()
        if name in expected and (shape := expected[name].shape) is not None and tensor.shape != shape
    ]
    problems += [
        f"{name} is {tensor.dtype}; {' or '.join(sorted(expected[name].dtypes))} is needed"
        for name, tensor in tensors.items()
        if name in expected and tensor.dtype not in expected[name].dtypes
    ]
    problems += [
        f"{name} is missing" for name, tensor in expected.items() if tensor.required and name not in tensors
    ]
    problems += [
        f"{name} is there, and config.json ({_shape_of(architecture)}, quantization "
        f"{quantization.method}) has no place for it"
        for name in tensors
        if name not in expected
    ]
    if problems:
        more = f" ({len(problems) - 1} more tensors disagree)" if len(problems) > 1 else ""
        raise CheckpointError(
            f"{path}: weights and config.json disagree: {problems[0]}{more}",
            path=path,
            hint=f"config.json must be the one that was saved with these weights; {COPY_HINT}",
        )
    return expected


def _shape_of(architecture: Architecture) -> str:
    return f"{architecture.num_hidden_layers} layers, hidden size {architecture.hidden_size}"


def _tokenizer(path: Path) -> str:
    for name in TOKENIZERS:
        if (path / name).is_file():
            if name.endswith(".json"):
                read_json_object(path / name, hint=COPY_HINT)
            return name
    raise CheckpointError(
        f"{path}: no tokenizer: one of {', '.join(TOKENIZERS)} is needed",
        path=path,
        hint="copy the tokenizer files of the model that the weights come from into the directory",
    )


def _has_chat_template(path: Path) -> bool:
    if (path / "chat_template.jinja").is_file() or (path / "chat_template.json").is_file():
        return True
    file = path / "tokenizer_config.json"
    return file.is_file() and bool(read_json_object(file, hint=COPY_HINT).get("chat_template"))
