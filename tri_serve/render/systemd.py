"""A systemd unit that runs one engine."""

from __future__ import annotations

import math
import re

from tri_serve.errors import LaunchError
from tri_serve.launch.config import LaunchConfig
from tri_serve.launch.standalone import is_directory
from tri_serve.render.text import STOP_MARGIN_SECONDS, grouped, heading, secret_names, summary
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


def unit_name(spec: Spec) -> str:
    """The unit's name without ``.service``: that of the engine and of the model."""
    name = re.sub(r"[^a-z0-9]+", "-", spec.model.served_name.lower()).strip("-")
    return f"{spec.engine.kind}-{name}"


def systemd_unit(spec: Spec, config: LaunchConfig, *, command: str) -> str:
    """The unit. It holds no secret: those come from an environment file that root alone can read.

    Raises LaunchError for a value that no unit can hold.
    """
    name = unit_name(spec)
    secrets = f"/etc/tri-serve/{name}.env"
    program = () if config.argv[0].startswith("/") else ("/usr/bin/env",)
    start = [" ".join(_word(argument) for argument in group) for group in grouped((*program, *config.argv))]
    # Everything that is fetched, compiled or cached goes to the one place that the unit may write to.
    env = {"HOME": f"/var/lib/{name}", "XDG_CACHE_HOME": f"/var/cache/{name}", **config.env}
    home = "read-only" if spec.model.source.startswith(("/home/", "/root/")) else "yes"
    local = is_directory(spec.model.source)
    lines = [
        heading(command),
        f"# {summary(spec, config)}",
        f"# Install as /etc/systemd/system/{name}.service. Secrets are lines of NAME=value in",
        f"# {secrets} (owner root, mode 600):",
        *(f"#   {secret}: {use}" for secret, use in secret_names(spec, config)),
        *(
            ["# The engine runs as a user of its own, which must be able to read the checkpoint."]
            if local
            else []
        ),
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
