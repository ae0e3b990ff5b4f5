"""The model to plan for: its checkpoint if it is on this machine, else what its preset knows of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tri_serve.checkpoint.architecture import Architecture, architecture_from
from tri_serve.checkpoint.config_file import CONFIG, read_config
from tri_serve.checkpoint.inspect import CheckpointFacts, inspect_checkpoint
from tri_serve.checkpoint.quantization import quantization_from
from tri_serve.checkpoint.resolve import resolve_source
from tri_serve.checkpoint.sizes import TensorSize, tensor_sizes
from tri_serve.errors import CheckpointError
from tri_serve.plan.facts import ModelFacts
from tri_serve.spec.load import PRESET_SOURCE
from tri_serve.spec.models import Spec
from tri_serve.spec.preset import Preset

_TRI_21B = (5120, 27392, 32, 8, 160, 124416)
_CARD_LAYERS = 32


def model_facts(
    spec: Spec, preset: Preset | None, cache: Path, environ: Mapping[str, str] = os.environ
) -> ModelFacts:
    """The facts of ``spec.model``.

    A directory, ``tiny:*`` and a hub's name that is in the local Hugging Face cache are read; of a directory that
    has config.json and no weights yet, sizes are computed. Where there is nothing to read, ``preset`` stands in, if
    it knows the architecture, and the facts say so. Nothing is downloaded.
    Raises CheckpointError if there is nothing to plan with, or if the checkpoint is damaged or no Llama.
    """
    source = spec.model.source
    known = preset is not None and preset.config is not None
    if source.startswith(PRESET_SOURCE) and known:
        return _from_preset(preset, ())
    try:
        path = resolve_source(spec.model, cache, environ)
    except CheckpointError as error:
        if not known:
            raise
        return _from_preset(preset, (f"not planned from model.source, which is not here: {error}",))
    if _has_weights(path) or not (path / CONFIG).is_file():
        return _from_checkpoint(inspect_checkpoint(path))
    return facts_from_config(
        read_config(path),
        path / CONFIG,
        origin=f"config.json of {path}",
        remarks=(f"{path} has no weights yet: their sizes are computed from config.json",),
    )


def _from_checkpoint(facts: CheckpointFacts) -> ModelFacts:
    return ModelFacts(
        architecture=facts.architecture,
        quantization=facts.quantization,
        tensors=_loaded(facts.tensors, facts.architecture),
        origin=f"checkpoint {facts.path}",
        from_checkpoint=True,
        remote_code=facts.remote_code,
        remarks=_remarks(facts.architecture),
    )


def _from_preset(preset: Preset | None, remarks: tuple[str, ...]) -> ModelFacts:
    assert preset is not None
    assert preset.config is not None
    where = Path(f"preset {preset.name}")
    return facts_from_config(preset.config, where, origin=f"from preset {preset.name}", remarks=remarks)


def facts_from_config(
    config: Mapping[str, Any], where: Path, *, origin: str, remarks: tuple[str, ...] = ()
) -> ModelFacts:
    """The facts of a checkpoint of which only config.json is here: sizes are computed. Raises CheckpointError."""
    architecture = architecture_from(config, where)
    quantization = quantization_from(config, where)
    return ModelFacts(
        architecture=architecture,
        quantization=quantization,
        tensors=tensor_sizes(architecture, quantization),
        origin=origin,
        from_checkpoint=False,
        remote_code="auto_map" in config,
        remarks=(*remarks, *_remarks(architecture)),
    )


def _has_weights(path: Path) -> bool:
    """Whether weights of any format are there: what is wrong with them is then the finding."""
    return any(any(path.glob(pattern)) for pattern in ("*.safetensors*", "*.bin", "*.gguf", "*.pt"))


def _loaded(tensors: Mapping[str, TensorSize], architecture: Architecture) -> dict[str, TensorSize]:
    """Those that an engine reads: not a tied head that is stored again, nor buffers that it computes."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.endswith(".rotary_emb.inv_freq")
        and not (architecture.tie_word_embeddings and tensor.kind == "lm_head")
    }


def _remarks(architecture: Architecture) -> tuple[str, ...]:
    return tuple(remark for remark in (_card(architecture), _windows(architecture)) if remark)


def _card(architecture: Architecture) -> str | None:
    """Tri-21B's model card contradicts itself, and parameters tell which of its numbers to believe."""
    shape = (
        architecture.hidden_size,
        architecture.intermediate_size,
        architecture.num_attention_heads,
        architecture.num_key_value_heads,
        architecture.head_dim,
        architecture.vocab_size,
    )
    if shape != _TRI_21B:
        return None
    layers = architecture.num_hidden_layers
    if layers == _CARD_LAYERS:
        return (
            f"config.json has {layers} layers, as the model card of Tri-21B says; but they make "
            f"{architecture.parameters:,} parameters, and the card says 20.73B, which is what 40 layers make: "
            "this is not the whole model"
        )
    fewer = _parameters_with(architecture, _CARD_LAYERS)
    return (
        f"the model card of Tri-21B says {_CARD_LAYERS} layers; {layers} are believed: they make "
        f"{architecture.parameters:,} parameters, and {_CARD_LAYERS} would make {fewer:,}, where the card says "
        "20.73B"
    )


def _parameters_with(architecture: Architecture, layers: int) -> int:
    per_layer = sum(n * k for n, k in architecture.linear_shapes().values()) + 2 * architecture.hidden_size
    return architecture.parameters - (architecture.num_hidden_layers - layers) * per_layer


def _windows(architecture: Architecture) -> str | None:
    window, layers = architecture.sliding_window, architecture.sliding_layers
    if window is None or not layers or window >= architecture.context:
        return None
    return (
        f"{layers} of {architecture.num_hidden_layers} layers look back {window:,} tokens only; memory and speed "
        "are planned as if all saw the whole context, which is the most that they take"
    )
