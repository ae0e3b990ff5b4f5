"""One metrics page over a real socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tri_serve.load.server_side import fetch
from tri_serve.load.server_side.fetch import fetch_page


@contextmanager
def answering(answer: bytes | Callable[[socket.socket], None]) -> Iterator[str]:
    """A server for one connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(4096)
            try:
                if callable(answer):
                    answer(connection)
                else:
                    connection.sendall(answer)
            except OSError:
                pass  # the client has heard enough

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"
    finally:
        thread.join(10)
        listener.close()


@pytest.mark.parametrize(
    "framed",
    [
        b"content-length: 5\r\n\r\nx 1\ny",
        b"transfer-encoding: chunked\r\n\r\n2\r\nx \r\n3\r\n1\ny\r\n0\r\n\r\n",
        b"connection: close\r\n\r\nx 1\ny",
    ],
)
def test_a_page_is_read_however_it_is_framed(framed: bytes) -> None:
    with answering(b"HTTP/1.1 200 OK\r\n" + framed) as url:
        assert fetch_page(url) == b"x 1\ny"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "status 404"),
        (b"", "no whole HTTP answer"),
        (b"nonsense\r\n\r\n", "no whole HTTP answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nshort", "cut"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nshort", "no whole HTTP answer"),
    ],
)
def test_what_is_no_page_is_an_os_error_in_words(answer: bytes, words: str) -> None:
    with answering(answer) as url, pytest.raises(OSError, match=words):
        fetch_page(url)


def test_an_endless_page_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "PAGE_LIMIT", 100_000)

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 10_000)

    with answering(endless) as url, pytest.raises(OSError, match="more than"):
        fetch_page(url)


def test_a_page_that_trickles_is_given_up_in_time() -> None:
    stop = threading.Event()

    def trickle(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not stop.wait(0.05):
            connection.sendall(b"x")

    with answering(trickle) as url:
        with pytest.raises(TimeoutError):
            fetch_page(url, seconds=0.3)
        stop.set()


def test_nobody_listening_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"
    with pytest.raises(OSError, match="refused"):
        fetch_page(url)
    with pytest.raises(OSError, match="no http address"):
        fetch_page("unix:/run/x")
