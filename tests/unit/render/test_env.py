from __future__ import annotations

from collections.abc import Callable

import pytest

from tri_serve.errors import LaunchError

Render = Callable[..., str]


def variables(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if not line.startswith("#"))


def test_each_line_is_a_variable_as_it_stands(render: Render) -> None:
    text = render("env", texts=('engine.env.X={"a": "b c"}', "engine.env.Y=a=b #c $d"))
    assert variables(text) == {
        "DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "X": '{"a": "b c"}',
        "Y": "a=b #c $d",
    }


@pytest.mark.parametrize("value", [" a", "a ", "'a'", '"a"', "a\\b", "a\nb"])
def test_what_docker_and_systemd_would_read_differently_is_refused(value: str, render: Render) -> None:
    with pytest.raises(LaunchError, match=r"engine\.env\.X"):
        render("env", texts=(f"engine.env.X={value}",))
