"""What runs inside the engine and wants its key."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tri_serve.launch import vllm
from tri_serve.launch.inside import tri_serve_engine_key as inside

KEY = b"sesame"


def ask(
    monkeypatch: pytest.MonkeyPatch, path: str, *keys: bytes, scope_type: str = "http"
) -> tuple[bool, list[dict[str, Any]]]:
    """Whether the request reached the app, and what was sent instead."""
    monkeypatch.setenv("VLLM_API_KEY", KEY.decode())
    reached: list[str] = []
    sent: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], _receive: Any, _send: Any) -> None:
        reached.append(scope["type"])

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"authorization", key) for key in keys]
    scope = {"type": scope_type, "path": path, "method": "POST", "headers": headers}
    asyncio.run(inside.WantKey(app)(scope, None, send))
    return bool(reached), sent


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/invocations", "/tokenize", "/sleep", "/", "/metrics/"]
)
def test_without_the_key_no_work_is_done(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    reached, sent = ask(monkeypatch, path)
    assert not reached
    assert sent[0]["status"] == 401


@pytest.mark.parametrize(
    "keys", [[b"Bearer other"], [b"sesame"], [b"Basic sesame"], [b"Bearer sesame", b"Bearer sesame"], [b""]]
)
def test_another_key_or_two_of_them_are_none(monkeypatch: pytest.MonkeyPatch, keys: list[bytes]) -> None:
    assert not ask(monkeypatch, "/invocations", *keys)[0]


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer "])
def test_the_gateway_comes_in_with_the_key(monkeypatch: pytest.MonkeyPatch, scheme: bytes) -> None:
    assert ask(monkeypatch, "/v1/completions", scheme + KEY) == (True, [])


@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_probes_and_scrapers_need_no_key(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    assert ask(monkeypatch, path)[0]


def test_a_websocket_without_the_key_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    reached, sent = ask(monkeypatch, "/v1/realtime", scope_type="websocket")
    assert not reached
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_the_engines_python_finds_it_without_tri_serve() -> None:
    module, _, name = vllm._KEY_MIDDLEWARE.partition(".")
    done = subprocess.run(
        [sys.executable, "-P", "-S", "-c", f"import {module}; print({module}.{name}.__name__)"],
        env={"PYTHONPATH": str(Path(vllm.__file__).parent / "inside"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == name
