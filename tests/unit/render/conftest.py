"""Specs made of a preset, and what is rendered from them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tri_serve.launch.config import LaunchConfig
from tri_serve.launch.standalone import container_launch, standalone_launch
from tri_serve.render.compose import compose_file
from tri_serve.render.env import env_file
from tri_serve.render.shell import shell_script
from tri_serve.render.systemd import systemd_unit
from tri_serve.spec.load import load_spec
from tri_serve.spec.models import Spec

Renderer = Callable[..., str]

COMMAND = "tri-serve render it"
FORMS: dict[str, Renderer] = {
    "shell": shell_script,
    "env": env_file,
    "compose": compose_file,
    "systemd": systemd_unit,
}


def rendered(form: str, *sets: str, texts: tuple[str, ...] = (), port: int | None = None) -> str:
    """A file for Tri-21B in AWQ."""
    given = [f"model.source={'trillionlabs/Tri-21B'}", *sets]
    spec: Spec = load_spec("tri-21b-awq", [], {}, given, list(texts)).spec
    launch = container_launch if form == "compose" else standalone_launch
    config: LaunchConfig = launch(spec, port=port)
    return FORMS[form](spec, config, command=COMMAND)


@pytest.fixture
def render() -> Renderer:
    return rendered


@pytest.fixture(params=sorted(FORMS))
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)
