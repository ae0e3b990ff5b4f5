"""A systemd unit that runs one engine."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator

from tri_serve.errors import LaunchError
from tri_serve.launch.config import LaunchConfig
from tri_serve.launch.standalone import is_directory
from tri_serve.render.text import STOP_MARGIN_SECONDS, grouped, heading, secret_lines, summary
from tri_serve.spec.models import Spec

# A user of its own (DynamicUser) that can write to its state and cache alone. What is left out, and why:
# PrivateDevices and DevicePolicy hide the GPU, and so does ProtectClock, which implies a DeviceAllow
# (systemd.exec(5)); MemoryDenyWriteExecute forbids the code that torch and Triton compile; ProtectKernelTunables
# makes files of the driver read-only.
_HARDENING = """\
DynamicUser=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectHostname=yes
LockPersonality=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
UMask=0077"""

_HOMES = ("/home", "/root", "/run/user")
"""What ProtectHome hides (systemd.exec(5))."""
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - words to compare with
"""What PrivateTmp puts empty folders in the place of."""


def unit_name(spec: Spec) -> str:
    """The unit's name without ``.service``: that of the engine and of the model."""
    name = re.sub(r"[^a-z0-9]+", "-", spec.model.served_name.lower()).strip("-")
    return f"{spec.engine.kind}-{name}"


def systemd_unit(spec: Spec, config: LaunchConfig, *, command: str) -> str:
    """The unit. It holds no secret: those come from an environment file that root alone can read.

    Raises LaunchError for a value that no unit can hold, and for an engine or checkpoint that it would not see.
    """
    for key, path in _needed(spec):
        if _below(path, _TEMPORARY):
            raise LaunchError(
                f"{key}: {path}: the unit has a {_below(path, _TEMPORARY)} of its own and would not see it",
                hint="move it to where it stays, such as /srv or /opt",
            )
    name = unit_name(spec)
    secrets = f"/etc/tri-serve/{name}.env"
    program = () if config.argv[0].startswith("/") else ("/usr/bin/env",)
    start = [" ".join(_word(argument) for argument in group) for group in grouped((*program, *config.argv))]
    # Everything that is fetched, compiled or cached goes to the one place that the unit may write to.
    env = {"HOME": f"/var/lib/{name}", "XDG_CACHE_HOME": f"/var/cache/{name}", **config.env}
    home = "read-only" if any(_below(path, _HOMES) for _, path in _paths(spec, config)) else "yes"
    reads = " and ".join(
        [
            *(["the engine"] if config.argv[0].startswith("/") else []),
            *(["the checkpoint"] if is_directory(spec.model.source) else []),
        ]
    )
    lines = [
        heading(command),
        f"# {summary(spec, config)}",
        f"# Install as /etc/systemd/system/{name}.service. Secrets are lines of NAME=value in",
        *secret_lines(spec, config, f"{secrets} (owner root, mode 600)"),
        *([f"# The engine runs as a user of its own, which must be able to read {reads}."] if reads else []),
        "[Unit]",
        f"Description={_specifiers(spec.model.served_name)} on {spec.engine.kind} {spec.engine.version}",
        "After=network-online.target nvidia-persistenced.service",
        "Wants=network-online.target",
        # An engine that cannot start is not tried for ever: it would fill the log and heat the GPU.
        "StartLimitIntervalSec=1800",
        "StartLimitBurst=5",
        "",
        "[Service]",
        "Type=exec",
        *(f"Environment={_word(f'{key}={value}', dollars=False)}" for key, value in env.items()),
        f"EnvironmentFile={'' if config.secret_env else '-'}{secrets}",
        f"StateDirectory={name}",
        f"CacheDirectory={name}",
        f"WorkingDirectory=/var/lib/{name}",
        "ExecStart=" + " \\\n    ".join(start),
        "Restart=on-failure",
        "RestartSec=10",
        # The engine's main process drains and ends the others; a SIGTERM to all would cut that short.
        "KillMode=mixed",
        f"TimeoutStopSec={math.ceil(spec.engine.shutdown_timeout) + STOP_MARGIN_SECONDS}",
        "LimitNOFILE=65536",
        "LimitMEMLOCK=infinity",
        "",
        _HARDENING.format(home=home),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def seen_words(spec: Spec, config: LaunchConfig) -> tuple[str, ...]:
    """What whoever installs the unit should know of the paths that it names, one sentence or two each."""
    paths = dict.fromkeys(_paths(spec, config))
    homes = list(dict.fromkeys(path for _, path in paths if _below(path, _HOMES)))
    words = []
    if homes:
        words.append(
            f"{', '.join(homes)}: in a home, which is usually closed to the unit's own user. Open the way "
            "(chmod o+x each folder on it), or move it to where all may read, such as /srv or /opt."
        )
    words += [
        f"{key} names {path}: the unit has a {_below(path, _TEMPORARY)} of its own, which is empty when it starts."
        for key, path in paths
        if _below(path, _TEMPORARY) not in ("", path)
    ]
    return tuple(words)


def _needed(spec: Spec) -> Iterator[tuple[str, str]]:
    """The paths without which no engine starts, each after its key in the spec."""
    if spec.engine.command is not None:
        yield from (("engine.command", path) for word in spec.engine.command for path in _paths_in(word))
    elif spec.engine.python is not None and posixpath.isabs(spec.engine.python):
        yield "engine.python", posixpath.normpath(spec.engine.python)
    if is_directory(spec.model.source):
        yield "model.source", posixpath.normpath(spec.model.source)


def _paths(spec: Spec, config: LaunchConfig) -> Iterator[tuple[str, str]]:
    """Those, and the paths in the engine's other arguments and variables."""
    yield from _needed(spec)
    yield from (("engine.extra_args", path) for word in spec.engine.extra_args for path in _paths_in(word))
    for name, value in config.env.items():
        yield from ((f"engine.env.{name}", path) for path in _paths_in(value))


def _paths_in(text: str) -> Iterator[str]:
    """Absolute paths: the whole text, or as in ``--flag=/a`` and ``/a:/b``, up to what may end one."""
    for found in re.findall(r"(?:^|(?<=[\s=:,;\"'\[{(]))/[^\s:,;\"'\]})]+", text):
        yield posixpath.normpath(found)


def _below(path: str, folders: tuple[str, ...]) -> str:
    """The one of ``folders`` that ``path`` is or lies in; empty if in none."""
    return next((folder for folder in folders if path == folder or path.startswith(f"{folder}/")), "")


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")


def _word(text: str, *, dollars: bool = True) -> str:
    """One word as systemd reads it (systemd.service(5), "Command lines"): specifiers and, in a command line,
    variables are escaped, the rest quoted where it must be."""
    if not text.isprintable():
        raise LaunchError(
            f"a systemd unit cannot hold {text!r}", hint="take out line breaks and control characters"
        )
    escaped = _specifiers(text).replace("\\", "\\\\").replace('"', '\\"')
    if dollars:
        escaped = escaped.replace("$", "$$")
    return escaped if re.fullmatch(r"[\w@%+=:,./\[\]{}$-]+", escaped, re.ASCII) else f'"{escaped}"'
