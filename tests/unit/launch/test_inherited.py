from __future__ import annotations

import pytest

from tri_serve.launch.inherited import inherited_environment


@pytest.mark.parametrize(
    "name",
    [
        "PYTHONPATH",
        "PYTHONHOME",
        "VIRTUAL_ENV",
        "LD_PRELOAD",
        "VLLM_PORT",
        "VLLM_API_KEY",
        "VLLM_SERVICE_HOST",
        "VLLM_PORT_8000_TCP_ADDR",
        "VLLM_SERVICE_PORT_HTTP",
        "TRI_SERVE_API_KEYS",
        "RAY_AUTH_TOKEN_PATH",
        "NOTIFY_SOCKET",
        "PYDANTIC_DISABLE_PLUGINS",
    ],
)
def test_what_belongs_to_another_program_is_not_inherited(name: str) -> None:
    assert inherited_environment({name: "x", "PATH": "/bin"}) == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOME", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "HF_HOME", "VLLM_CACHE_ROOT", "HTTPS_PROXY"],
)
def test_what_the_engine_may_need_is_inherited(name: str) -> None:
    assert inherited_environment({name: "x"}) == {name: "x"}
