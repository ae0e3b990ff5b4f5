"""The engine's variables as a file of NAME=value lines."""

from __future__ import annotations

from tri_serve.errors import LaunchError
from tri_serve.launch.config import LaunchConfig
from tri_serve.render.text import heading, secret_lines, summary
from tri_serve.spec.models import Spec


def env_file(spec: Spec, config: LaunchConfig, *, command: str) -> str:
    """The file, for ``docker run --env-file`` and systemd's ``EnvironmentFile=`` alike. It holds no secret.

    Docker takes everything after the first ``=`` as it stands; systemd strips blanks at both ends, reads a quote at
    the beginning as one, and a backslash as an escape (systemd.exec(5)). Values that the two would read differently
    cannot be said in one file: raises LaunchError for them.
    """
    for name, value in config.env.items():
        if not _reads_alike(value):
            raise LaunchError(
                f"engine.env.{name}: docker and systemd would read this value differently in one file",
                hint="render compose or systemd instead, which quote it; or take out line breaks, backslashes, "
                "blanks at the ends and a quote at the beginning",
            )
    lines = [
        heading(command),
        f"# Variables for {summary(spec, config)}",
        "# For docker run --env-file FILE, or EnvironmentFile=FILE in a systemd unit: nothing here is quoted.",
        *secret_lines(
            spec, config, "Secrets belong in a file of their own that nobody else can read (chmod 600)"
        ),
        *(f"{name}={value}" for name, value in config.env.items()),
    ]
    return "\n".join(lines) + "\n"


def _reads_alike(value: str) -> bool:
    return (
        value == value.strip()
        and not value.startswith(("'", '"'))
        and "\\" not in value
        and value.isprintable()
    )
