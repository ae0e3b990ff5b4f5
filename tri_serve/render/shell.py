"""A POSIX shell script that becomes the engine."""

from __future__ import annotations

import shlex

from tri_serve.launch.config import LaunchConfig
from tri_serve.render.text import grouped, heading, secret_names, summary
from tri_serve.spec.models import Spec

# Read and not sourced: a value may hold anything, and nothing in the file is run.
_SECRETS = """\
if [ -n "${SECRETS_FILE:-}" ]; then
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in
            '#'*) ;;
            *=*) export "${line%%=*}=${line#*=}" ;;
        esac
    done < "$SECRETS_FILE"
fi
"""


def shell_script(spec: Spec, config: LaunchConfig, *, command: str) -> str:
    """The script. It holds no secret: those come from its environment or from a file of NAME=value lines.

    What is given to the script is given to the engine, after the spec's own arguments.
    """
    lines = [
        "#!/bin/sh",
        heading(command),
        f"# {summary(spec, config)}",
        "set -eu",
        "",
        "# Secrets come from the environment, or from the file that SECRETS_FILE names: lines of NAME=value, which",
        "# nobody else should be able to read (chmod 600).",
        *(f"#   {name}: {use}" for name, use in secret_names(spec, config)),
        _SECRETS.rstrip("\n"),
        *(f': "${{{name}:?is not set}}"' for name in config.secret_env),
        "",
        *(f"export {name}={shlex.quote(value)}" for name, value in config.env.items()),
        "",
    ]
    groups = [shlex.join(group) for group in grouped(config.argv)]
    return "\n".join([*lines, "exec " + " \\\n    ".join([*groups, '"$@"'])]) + "\n"
