"""What is said of a server before a load, in one line."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tri_serve.errors import ConnectionFailedError, UsageError
from tri_serve.load.wire.client import Client
from tri_serve.load.wire.preflight import find_model
from tri_serve.load.wire.target import parse_target

_Start = Callable[[int, bytes], str]


@pytest.fixture
def start() -> Iterator[_Start]:
    """Starts a server that answers everything alike; returns its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _models(*names: str) -> bytes:
    return json.dumps({"data": [{"id": name} for name in names]}).encode()


def _find(url: str, wanted: str | None) -> str:
    with Client(parse_target(url), "", "wrong-key") as client:
        return find_model(client, wanted)


def test_the_only_model_needs_no_name(start: _Start) -> None:
    assert _find(start(200, _models("tri-tiny")), None) == "tri-tiny"


def test_a_named_model_is_found(start: _Start) -> None:
    assert _find(start(200, _models("tri-tiny", "other")), "other") == "other"


@pytest.mark.parametrize(
    ("names", "wanted", "message", "hint"),
    [
        (("tri-tiny",), "tri-tinny", "has no model 'tri-tinny'; it has tri-tiny", "did you mean tri-tiny?"),
        (("a", "b"), None, "has 2 models (a, b)", "name one of them with --model"),
    ],
)
def test_a_model_that_cannot_be_told(
    start: _Start, names: tuple[str, ...], wanted: str | None, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as refused:
        _find(start(200, _models(*names)), wanted)
    assert message in str(refused.value)
    assert refused.value.hint == hint


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b'{"error":{"message":"Unauthorized"}}', "refuses the key: 401, Unauthorized"),
        (404, b"<html>", "answers 404"),
        (200, b"<html>", "answers with what is not JSON"),
        (200, b'{"data":[]}', "names no model"),
        (200, b"[]", "names no model"),
    ],
)
def test_a_server_that_is_none_of_ours(start: _Start, status: int, body: bytes, message: str) -> None:
    with pytest.raises(ConnectionFailedError) as refused:
        _find(start(status, body), None)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "wrong-key" not in str(refused.value)


def test_a_name_that_would_command_a_terminal_is_no_model_s(start: _Start) -> None:
    assert _find(start(200, _models("a\x1b[2Jb", "tri-tiny")), None) == "tri-tiny"
    with pytest.raises(ConnectionFailedError, match="names no model"):
        _find(start(200, _models("\x9b2Jb")), None)


def test_a_refusal_that_repeats_the_key_is_told_without_it(start: _Start) -> None:
    body = b'{"error": {"message": "wrong-key is not known"}}'
    with pytest.raises(ConnectionFailedError, match=r"401, \[key\] is not known"):
        _find(start(401, body), None)


def test_nobody_there() -> None:
    with pytest.raises(
        ConnectionFailedError, match=r"http://127\.0\.0\.1:1 does not answer: connection refused"
    ):
        _find("http://127.0.0.1:1", None)
