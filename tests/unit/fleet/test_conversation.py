"""Reading an answer as it comes, from a server that sends whatever it likes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tri_serve.errors import ConnectionFailedError
from tri_serve.fleet.conversation import ChatServer
from tri_serve.process.ports import free_port

MESSAGES = [{"role": "user", "content": "안녕"}]


def event(text: str | None, finish: str | None = None) -> bytes:
    choice = {"delta": {"content": text} if text is not None else {}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}, ensure_ascii=False).encode() + b"\n\n"


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts a server that answers every request with these pieces; returns its URL. Requests are in `.seen`."""
    servers: list[ThreadingHTTPServer] = []

    def start(*pieces: bytes, status: int = 200, seen: list[Any] | None = None) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if seen is not None:
                    seen.append((self.path, dict(self.headers), json.loads(body or b"null")))
                self.send_response(status)
                self.end_headers()
                for piece in pieces:
                    self.wfile.write(piece)
                    self.wfile.flush()

            do_GET = do_POST  # noqa: N815 -- the name is http.server's

            def log_message(self, *_: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def answer(url: str, **body: object) -> list[str]:
    return list(ChatServer(url).chat({"model": "m", **body}, MESSAGES))


def test_pieces_come_as_the_server_sends_them(serve: Callable[..., str]) -> None:
    url = serve(event("안녕"), event("하세요"), event(None, "stop"), b"data: [DONE]\n\n")
    assert answer(url) == ["안녕", "하세요"]


@pytest.mark.parametrize("cut", range(1, 90, 7))
def test_a_character_cut_by_the_network_is_whole(serve: Callable[..., str], cut: int) -> None:
    stream = event("안녕 😀 世界") + event("끝", "stop") + b"data: [DONE]\n\n"
    assert "".join(answer(serve(stream[:cut], stream[cut:]))) == "안녕 😀 世界끝"


def test_line_separators_inside_a_text_do_not_end_its_event(serve: Callable[..., str]) -> None:
    assert answer(serve(event("a\u2028b\x85c\x0bd", "stop"))) == ["a\u2028b\x85c\x0bd"]


def test_comments_and_crlf_are_taken(serve: Callable[..., str]) -> None:
    assert answer(serve(b": ping\r\n\r\n" + event("x", "stop").replace(b"\n", b"\r\n"))) == ["x"]


def test_without_streaming_the_answer_comes_whole(serve: Callable[..., str]) -> None:
    body = {"choices": [{"message": {"content": "whole"}}]}
    assert answer(serve(json.dumps(body).encode()), stream=False) == ["whole"]


def test_an_error_event_ends_the_answer_with_its_words(serve: Callable[..., str]) -> None:
    url = serve(event("so far"), b'data: {"error": {"message": "engine failed"}}\n\n')
    pieces: list[str] = []
    with pytest.raises(ConnectionFailedError, match=r"^the answer broke off: engine failed$"):
        pieces.extend(ChatServer(url).chat({"model": "m"}, MESSAGES))


def test_a_stream_that_just_ends_is_not_taken_for_whole(serve: Callable[..., str]) -> None:
    with pytest.raises(ConnectionFailedError, match="the connection ended early"):
        answer(serve(event("so far")))


def test_a_refusal_is_one_line_with_the_servers_words(serve: Callable[..., str]) -> None:
    url = serve(b'{"error": {"message": "no\\nsuch  model"}}', status=404)
    with pytest.raises(ConnectionFailedError, match=r"refused \(404\): no such model$") as caught:
        answer(url)
    assert caught.value.status == 404


@pytest.mark.parametrize("body", [b"<html>Bad Gateway</html>", b"", b"[1]", b'"text"'])
def test_a_refusal_in_any_form_is_one_line(serve: Callable[..., str], body: bytes) -> None:
    with pytest.raises(ConnectionFailedError, match=r"refused \(502\)") as caught:
        answer(serve(body, status=502))
    assert "\n" not in caught.value.message


def test_a_refused_key_says_where_keys_are_put(serve: Callable[..., str]) -> None:
    with pytest.raises(ConnectionFailedError) as caught:
        answer(serve(b'{"error": {"message": "who are you?"}}', status=401))
    assert "TRI_SERVE_API_KEY" in (caught.value.hint or "")


def test_nobody_listening_is_one_line() -> None:
    with pytest.raises(ConnectionFailedError, match=r"does not answer: Connection refused$"):
        answer(f"http://127.0.0.1:{free_port('127.0.0.1')}")


def test_events_that_are_not_openais_are_an_error(serve: Callable[..., str]) -> None:
    with pytest.raises(ConnectionFailedError, match="not OpenAI's"):
        answer(serve(b"data: nonsense\n\n"))


def test_the_key_goes_into_the_header_and_the_base_gets_its_version(serve: Callable[..., str]) -> None:
    seen: list[Any] = []
    url = serve(event("x", "stop"), seen=seen)
    for base in (url, f"{url}/v1", f"{url}/v1/"):
        list(ChatServer(base, "secret").chat({"model": "m"}, MESSAGES))
    assert {path for path, _, _ in seen} == {"/v1/chat/completions"}
    assert {headers["authorization"] for _, headers, _ in seen} == {"Bearer secret"}
    assert seen[0][2]["messages"] == MESSAGES


def test_the_first_model_is_asked_when_none_is_named(serve: Callable[..., str]) -> None:
    assert ChatServer(serve(b'{"data": [{"id": "a"}, {"id": "b"}]}')).first_model() == "a"
    with pytest.raises(ConnectionFailedError, match="offers no model"):
        ChatServer(serve(b'{"data": []}')).first_model()
