"""A Docker Compose file with the engines of a spec, each in its engine's own image."""

from __future__ import annotations

import math
from typing import Any

import yaml

from tri_serve.errors import LaunchError
from tri_serve.launch.config import LaunchConfig
from tri_serve.launch.images import stock_image
from tri_serve.launch.standalone import COMMANDS, is_directory
from tri_serve.render.text import STOP_MARGIN_SECONDS, heading, secret_names, summary
from tri_serve.spec.engine import EngineSpec
from tri_serve.spec.models import Spec

SECRETS_FILE = "secrets.env"
"""Beside the compose file."""

# PyTorch's processes share tensors through /dev/shm, of which a container has 64 MB by default. It takes up only
# what is written to it.
_SHARED_MEMORY = "8gb"

_PROBE = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/health', timeout=5)"


class _Text(str):
    """A string that is quoted whatever it looks like.

    PyYAML leaves bare what YAML 1.1 takes for text, of which Compose, by YAML 1.2, reads ``1e3`` and ``0o17`` as
    numbers.
    """

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    def represent_data(self, data: Any) -> yaml.Node:
        if isinstance(data, _Text):
            return self.represent_scalar("tag:yaml.org,2002:str", str(data), style="'")
        return super().represent_data(data)


def compose_file(spec: Spec, config: LaunchConfig, *, command: str) -> str:
    """The file; ``config`` is that of ``container_launch``.

    Each replica is a service with GPUs and a port of its own, published at gateway.host alone. Raises LaunchError
    if no image is known for the spec's device.
    """
    replicas = spec.fleet.initial_replicas
    document = {
        "services": {
            _service_name(index, replicas): _service(spec, config, index, replicas)
            for index in range(replicas)
        },
        "volumes": {"cache": None},
    }
    required = bool(config.secret_env)
    lines = [
        heading(command),
        f"# {summary(spec, config)}",
        f"# Secrets are read from {SECRETS_FILE} beside this file{'' if required else ', if it is there'}:",
        "# lines of NAME=value, taken as they stand (Docker Compose 2.30 or later). Let nobody else read it.",
        *(f"#   {name}: {use}" for name, use in secret_names(spec, config)),
    ]
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
    return "\n".join(lines) + "\n" + text


def _service_name(index: int, replicas: int) -> str:
    return "engine" if replicas == 1 else f"engine-{index}"


def _service(spec: Spec, config: LaunchConfig, index: int, replicas: int) -> dict[str, Any]:
    engine = spec.engine
    entrypoint = COMMANDS[engine.kind]
    service: dict[str, Any] = {
        "image": _literal(_image(engine)),
        "entrypoint": list(entrypoint),
        "command": [_literal(argument) for argument in config.argv[len(entrypoint) :]],
        "environment": {
            name: _literal(value) for name, value in config.env.items() if name != "CUDA_VISIBLE_DEVICES"
        },
        # raw: what follows the = is the value, without quotes or $ meaning anything.
        "env_file": [{"path": SECRETS_FILE, "required": bool(config.secret_env), "format": "raw"}],
        "ports": [f"{_address(config.host)}:{config.port + index}:{config.port}"],
        "volumes": _volumes(spec),
        "shm_size": _SHARED_MEMORY,
        "init": True,
        "security_opt": ["no-new-privileges:true"],
        "restart": "unless-stopped",
        "stop_grace_period": f"{math.ceil(engine.shutdown_timeout) + STOP_MARGIN_SECONDS}s",
        "healthcheck": {
            "test": ["CMD", "python3", "-c", _PROBE.format(port=config.port)],
            "interval": "10s",
            "timeout": "10s",
            "retries": 3,
            "start_period": f"{math.ceil(engine.start_timeout)}s",
        },
    }
    if engine.device != "cpu":
        device = {"driver": "nvidia", **_gpus(config, engine, index, replicas), "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return service


def _image(engine: EngineSpec) -> str:
    if engine.image is not None:
        return engine.image
    if engine.device == "cpu":
        raise LaunchError(
            "engine.image: the engines' own images are for GPUs; name one for the CPU",
            hint="--set engine.image=IMAGE, or --set engine.device=cuda",
        )
    return stock_image(engine.kind, engine.version)


def _address(host: str) -> str:
    """Where a port is published: Docker takes IP addresses alone."""
    if host == "localhost":
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _volumes(spec: Spec) -> list[str | dict[str, Any]]:
    # What is fetched and compiled outlives the container.
    volumes: list[str | dict[str, Any]] = ["cache:/root/.cache"]
    if is_directory(spec.model.source):
        # In the short form a colon would end the path, and a directory that is not there would be made, empty.
        path = _literal(spec.model.source)
        volumes.append(
            {
                "type": "bind",
                "source": path,
                "target": path,
                "read_only": True,
                "bind": {"create_host_path": False},
            }
        )
    return volumes


def _gpus(config: LaunchConfig, engine: EngineSpec, index: int, replicas: int) -> dict[str, Any]:
    """The GPUs of replica ``index``: those that the spec names, or that many from the first on."""
    size = engine.tensor_parallel_size
    named = [name.strip() for name in config.env.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if not named and replicas == 1:
        return {"count": size}
    names = named or [str(number) for number in range(size * replicas)]
    mine = names[index * size : (index + 1) * size]
    if len(mine) < size:
        raise LaunchError(
            f"engine.env.CUDA_VISIBLE_DEVICES names {len(names)} GPUs, and {replicas} engines need "
            f"{size * replicas}",
            hint="name more, or lower fleet.replicas or engine.tensor_parallel_size",
        )
    return {"device_ids": [_Text(name) for name in mine]}


def _literal(text: str) -> _Text:
    """Compose puts variables in the place of ``$NAME``; ``$$`` is one dollar."""
    return _Text(text.replace("$", "$$"))
