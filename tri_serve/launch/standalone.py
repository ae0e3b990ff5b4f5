"""The command for one engine on a machine or in an image of the user's own, outside any fleet of ours."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import PurePosixPath

from tri_serve.checkpoint.resolve import check_revision
from tri_serve.errors import LaunchError
from tri_serve.launch import sglang_options
from tri_serve.launch.config import LaunchConfig
from tri_serve.launch.device import Device
from tri_serve.launch.images import require_whole_image, stored_method
from tri_serve.launch.options import Option, spaced
from tri_serve.launch.version_gates import (
    TITLES,
    VersionGate,
    newer_than_known,
    version_gate,
    without_defaults,
)
from tri_serve.launch.vllm_flags import check_extra_args, check_flags
from tri_serve.launch.vllm_options import OFFLINE, PRIVATE, vllm_cpu_variables, vllm_options
from tri_serve.spec.engine import TESTED_VERSIONS, EngineKind
from tri_serve.spec.gateway import NODE
from tri_serve.spec.models import Spec
from tri_serve.spec.secrets import is_secret_variable, mask_arguments

COMMANDS: dict[EngineKind, tuple[str, ...]] = {
    "vllm": ("vllm", "serve"),
    "sglang": ("python3", "-m", "sglang.launch_server"),
}
"""What starts each engine's server where it is installed."""

_EVERY_INTERFACE = "0.0.0.0"  # noqa: S104 - a word to compare with; nothing is bound here


def standalone_launch(
    spec: Spec, *, engine: EngineKind | None = None, host: str | None = None, port: int | None = None
) -> LaunchConfig:
    """What to run for one engine of ``spec`` where clients talk to it themselves.

    ``engine``: the spec's own unless given. ``host``: gateway.host unless given. ``port``: the engine's own
    default unless given. Options are left out that say what this version of the engine does anyway. Variables of
    the spec that are secrets, by name or for a password in a URL, go into ``secret_env``.
    Raises LaunchError for what that version does not take, and for the tiny checkpoint, which only tri-serve has;
    CheckpointError for a revision that no hub can have.
    """
    check_revision(spec.model.revision)
    spec = _of_kind(spec, engine or spec.engine.kind)
    kind = spec.engine.kind
    gate = version_gate(kind, spec.engine.version)
    device: Device = "cpu" if spec.engine.device == "cpu" else "cuda"
    host = spec.gateway.host if host is None else host
    options = list(_options(spec, gate, device))
    gate.check(options)
    _check_extra_args(spec.engine.extra_args, gate)
    secret = {name: value for name, value in spec.engine.env.items() if is_secret_variable(name, value)}
    plain = {name: value for name, value in spec.engine.env.items() if name not in secret}
    return LaunchConfig(
        argv=(
            *_command(spec),
            *_model(spec),
            *spaced(_named(spec, without_defaults(options, gate))),
            *spaced(_listening(gate, host, port)),
            *spec.engine.extra_args,
        ),
        env=_environment(spec, device) | plain,
        secret_env=secret,
        host=host,
        port=gate.default("--port") if port is None else port,
    )


def container_launch(spec: Spec, *, port: int | None = None) -> LaunchConfig:
    """The same inside an engine's image: its own command, listening on all of the container's interfaces.

    ``host`` of what is returned is where the container's port is to be published: gateway.host.
    Raises LaunchError as ``standalone_launch`` does, and where the engine's own image lacks a plugin.
    """
    require_whole_image(spec)
    _check_address(spec.gateway.host)
    engine = spec.engine.model_copy(update={"command": None, "python": None})
    bare = spec.model_copy(update={"engine": engine})
    return replace(standalone_launch(bare, host=_EVERY_INTERFACE, port=port), host=spec.gateway.host)


def is_directory(source: str) -> bool:
    """Whether ``model.source`` is a directory, and not a hub repository."""
    return PurePosixPath(source).is_absolute()


def remarks(spec: Spec, *, engines: int = 1) -> tuple[str, ...]:
    """What whoever runs ``engines`` of them should know, one sentence or two each."""
    return tuple(_remarks(spec, engines))


def _remarks(spec: Spec, engines: int) -> Iterator[str]:
    if (words := newer_than_known(spec.engine.kind, spec.engine.version)) is not None:
        yield f"{words}."
    if mask_arguments(spec.engine.extra_args) != spec.engine.extra_args:
        yield (
            "engine.extra_args hold a secret, which stands in this file as it is: let nobody else read it. Every "
            "user of the machine can read a process's arguments; a variable in engine.env is kept apart."
        )
    if spec.engine.kind == "sglang":
        if sglang_options.shares_memory_otherwise(spec.engine):
            yield (
                "engine.gpu_memory_utilization became --mem-fraction-static, which counts weights and KV cache "
                "alone: leave more beside it than for vLLM."
            )
        yield (
            "SGLang takes its clients' key only as an argument, which every user of the machine can read: this "
            "command sets none, so keep its port to yourself."
        )
    elif not _is_loopback(spec.gateway.host) and "VLLM_API_KEY" not in spec.engine.env:
        yield (
            f"It listens on {spec.gateway.host}, and whoever reaches that may use it unless VLLM_API_KEY is among "
            "its secrets."
        )
    if stored_method(spec) == "bitsandbytes":
        from tri_serve.launch.plugins import plugin_for

        if plugin := plugin_for(spec.engine.kind, spec.engine.version, "bitsandbytes"):
            packages = shlex.join(plugin.packages)
            yield f"vLLM {spec.engine.version} needs more for bitsandbytes, where it runs: pip install {packages}"
    if engines > 1:
        yield (
            f"{engines} engines, each on a port of its own and none in front of them: `tri-serve up` runs a fleet "
            "behind one address."
        )
    elif spec.fleet.most_replicas > 1:
        yield f"fleet.replicas is {spec.fleet.most_replicas}, and this is one engine; `tri-serve up` runs a fleet."


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (host != NODE and ip_address(host).is_loopback)


def _check_extra_args(extra_args: tuple[str, ...], gate: VersionGate) -> None:
    if gate.engine == "sglang":
        check_flags(extra_args, gate, sglang_options.SPEC_KEYS, sglang_options.REFUSED)
    else:
        check_extra_args(extra_args, gate, standalone=True)


def _of_kind(spec: Spec, kind: EngineKind) -> Spec:
    if spec.engine.kind == kind:
        return spec
    changed = spec.engine.model_copy(update={"kind": kind, "version": TESTED_VERSIONS[kind]})
    return spec.model_copy(update={"engine": changed})


def _command(spec: Spec) -> tuple[str, ...]:
    engine = spec.engine
    if engine.command is not None:
        _check_command(engine.command, engine.kind)
        return engine.command
    if engine.python is None:
        return COMMANDS[engine.kind]
    module = "vllm.entrypoints.cli.main" if engine.kind == "vllm" else "sglang.launch_server"
    return (engine.python, "-m", module, *(("serve",) if engine.kind == "vllm" else ()))


def _check_command(command: tuple[str, ...], kind: EngineKind) -> None:
    """A command that names the other engine would be given flags that it does not know."""
    other: EngineKind = "sglang" if kind == "vllm" else "vllm"
    named = {PurePosixPath(word).name.partition(".")[0] for word in command}
    if other in named and kind not in named:
        example = ",".join(installed_command(kind))
        raise LaunchError(
            f"engine.command: {' '.join(command)} starts {TITLES[other]}, and engine.kind is {kind}",
            hint=f"--set engine.command=[{example}] (yours), or --set engine.kind={other}",
        )


def installed_command(kind: EngineKind) -> tuple[str, ...]:
    """``COMMANDS`` with the full path that it has in an environment below /opt, as an example to write."""
    program, *words = COMMANDS[kind]
    return (f"/opt/{kind}/bin/{program}", *words)


def _model(spec: Spec) -> tuple[str, ...]:
    source = spec.model.source
    form, colon, name = source.partition(":")
    if colon and form == "tiny":
        raise LaunchError(
            f"model.source: {source} is a checkpoint that tri-serve makes, which this command cannot name",
            hint=f"tri-serve checkpoint tiny {name} --output DIR, then --set model.source=DIR",
        )
    return (source,) if spec.engine.kind == "vllm" else ("--model-path", source)


def _options(spec: Spec, gate: VersionGate, device: Device) -> Iterator[Option]:
    yield from (
        sglang_options.sglang_options(spec, device) if gate.engine == "sglang" else vllm_options(spec, device)
    )
    if spec.model.revision is not None and not is_directory(spec.model.source):
        yield Option("--revision", spec.model.revision, "model.revision")


def _named(spec: Spec, options: list[Option]) -> Iterator[Option]:
    """Without the name that the engine takes from the source anyway."""
    for option in options:
        if option.flag != "--served-model-name" or option.value != spec.model.source:
            yield option


def _listening(gate: VersionGate, host: str, port: int | None) -> Iterator[Option]:
    """vLLM listens on every interface unless told otherwise, SGLang on the loopback one."""
    _check_address(host)
    if host != (gate.default("--host") or _EVERY_INTERFACE):
        yield Option("--host", host, "gateway.host")
    if port is not None:
        yield Option("--port", str(port), "gateway.port")


def _check_address(host: str) -> None:
    if host == NODE:
        raise LaunchError(
            f"gateway.host: {NODE} goes with a cluster's nodes; one engine listens on an address",
            hint="--set gateway.host=127.0.0.1",
        )


def _environment(spec: Spec, device: Device) -> dict[str, str]:
    env = dict(OFFLINE) if is_directory(spec.model.source) else {}
    if spec.engine.kind == "vllm":
        env |= PRIVATE
        if device == "cpu":
            env |= vllm_cpu_variables(spec.engine)
    if device == "cpu" and spec.engine.cpu_threads is not None:
        env["OMP_NUM_THREADS"] = str(spec.engine.cpu_threads)
    return env
