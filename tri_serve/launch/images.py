"""The images that engines' projects publish, and what one of them lacks for some checkpoints."""

from __future__ import annotations

import shlex
from pathlib import Path

from tri_serve.errors import CheckpointError, LaunchError
from tri_serve.spec.engine import EngineKind
from tri_serve.spec.models import Spec

_STOCK: dict[EngineKind, str] = {
    "vllm": "vllm/vllm-openai:v{version}",
    "sglang": "lmsysorg/sglang:v{version}",
}


def stock_image(kind: EngineKind, version: str) -> str:
    """The image of that engine for NVIDIA GPUs, as its project publishes it."""
    return _STOCK[kind].format(version=version)


def require_whole_image(spec: Spec) -> None:
    """Raises LaunchError where the engine's own image would run and lacks a plugin that the checkpoint needs.

    An image that ``engine.image`` names is taken to have it.
    """
    engine = spec.engine
    # For the CPU no image is known, which whoever looks for one says.
    if engine.image is not None or engine.device == "cpu" or stored_method(spec) != "bitsandbytes":
        return
    from tri_serve.launch.plugins import pinned, plugin_for

    plugin = plugin_for(engine.kind, engine.version, "bitsandbytes")
    if plugin is None or not plugin.outside_image:
        return
    image = stock_image(engine.kind, engine.version)
    raise LaunchError(
        f"engine.image: {image} lacks {' and '.join(plugin.outside_image)}, without which "
        f"vLLM {engine.version} reads no bitsandbytes checkpoint",
        hint="build an image with it, and name it with --set engine.image=NAME. A Dockerfile:\n"
        f"  FROM {image}\n"
        f"  RUN pip install --no-deps {shlex.join(pinned(plugin, engine.version))}",
    )


def stored_method(spec: Spec) -> str:
    """How the weights are stored: what the spec says, or config.json where the checkpoint is a directory here.

    ``none`` where neither tells: the checkpoint may lie on another machine.
    """
    if spec.model.quantization != "auto":
        return spec.model.quantization
    from tri_serve.checkpoint.config_file import CONFIG, read_config
    from tri_serve.checkpoint.quantization import quantization_from

    path = Path(spec.model.source)
    if not path.is_absolute() or not (path / CONFIG).is_file():
        return "none"
    try:
        return quantization_from(read_config(path), path / CONFIG).method
    except CheckpointError:  # what is wrong with it is for those to say who read it
        return "none"
