"""The client against servers that the mock engine cannot play: other framings, TLS, addresses that lead nowhere."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tri_serve.errors import UsageError
from tri_serve.load.records import Outcome, Record
from tri_serve.load.wire.client import Client
from tri_serve.load.wire.connection import Connector
from tri_serve.load.wire.target import Target, parse_target
from tri_serve.load.workload.items import Item

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
_ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
_TEXT = 'data: {"choices":[{"delta":{"content":"가나다"},"finish_reason":"stop"}]}\n\n'.encode()
_DONE = b"data: [DONE]\n\n"
_STREAM = _ROLE + _TEXT + _DONE

_Serve = Callable[[socket.socket, bytes], None]
"""Given a connection and a request that has come on it."""


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().rpartition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@pytest.fixture
def serve() -> Iterator[Callable[..., int]]:
    """Starts servers that answer each request as told; returns their ports."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(answer: _Serve, context: ssl.SSLContext | None = None) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def talk(connection: socket.socket) -> None:
            try:
                with (
                    connection if context is None else context.wrap_socket(connection, server_side=True) as c
                ):
                    while request := _request(c):
                        answer(c, request)
            except OSError:
                connection.close()

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.settimeout(10)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=talk, args=(connection,))
                threads.append(thread)
                thread.start()

        thread = threading.Thread(target=accept)
        threads.append(thread)
        thread.start()
        return int(listener.getsockname()[1])

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(15)


def _asked(client: Client, times: int = 1) -> list[Record]:
    """The records of so many requests, one after the other."""
    records = [Record(index=n, item="x") for n in range(times)]
    body = {"messages": [{"role": "user", "content": "안녕"}]}
    with client:
        for record in records:
            answer = client.ask(Item("x", "g", "/v1/chat/completions", body, 0, 1), record)
            assert not record.ok or answer.text == "가나다"
    return records


def _ask(client: Client) -> Record:
    return _asked(client)[0]


def _target(port: int) -> Target:
    return parse_target(f"http://127.0.0.1:{port}")


def _sends(*pieces: bytes, close: bool = False) -> _Serve:
    def answer(connection: socket.socket, request: bytes) -> None:
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(0.01)
            connection.sendall(piece)
        if close:
            connection.shutdown(socket.SHUT_RDWR)

    return answer


def _sized(body: bytes) -> bytes:
    return _HEAD + b"content-length: %d\r\n\r\n" % len(body) + body


def test_a_record_says_which_replica_answered_where_a_gateway_does(serve: Callable[..., int]) -> None:
    said = _sized(_STREAM).replace(b"\r\n", b"\r\nX-Tri-Replica: replica-1\r\n", 1)
    assert _ask(Client(_target(serve(_sends(said))), "m")).replica == "replica-1"
    assert _ask(Client(_target(serve(_sends(_sized(_STREAM)))), "m")).replica == ""


@pytest.mark.parametrize(
    "answer",
    [
        _sends(_HEAD + b"\r\n", _ROLE, _TEXT, _DONE, close=True),
        _sends(_sized(_STREAM)),
        _sends(_sized(_STREAM.replace(b"\n", b"\r\n"))),
        _sends(_sized(b": connected\n\n" + _ROLE + b": ping\n\n" + _TEXT + _DONE)),
        _sends(b"HTTP/1.1 100 Continue\r\n\r\n", _sized(_STREAM)),
        # In the middle of a character, of an event's end, of a head.
        _sends(_sized(_STREAM)[:20], _sized(_STREAM)[20:]),
        _sends(*(_sized(_STREAM)[at : at + 7] for at in range(0, len(_sized(_STREAM)), 7))),
    ],
)
def test_every_framing_of_a_whole_stream(serve: Callable[..., int], answer: _Serve) -> None:
    client = Client(_target(serve(answer)), "m")
    record = _ask(client)
    assert (record.outcome, record.detail) == (Outcome.OK, "")
    assert record.first_token


@pytest.mark.parametrize(
    ("answer", "outcome", "detail"),
    [
        (_sends(_HEAD + b"\r\n" + _ROLE + _TEXT, close=True), Outcome.CUT, "without [DONE]"),
        (_sends(_sized(b"")), Outcome.CUT, "without [DONE]"),
        (_sends(_sized(_DONE)), Outcome.CUT, "no finish reason"),
        (_sends(_sized(_ROLE + b"data: {oops\n\n" + _DONE)), Outcome.MALFORMED, "not JSON"),
        (
            _sends(_sized(_STREAM).replace(b"text/event-stream", b"application/json")),
            Outcome.MALFORMED,
            "no JSON",
        ),
        (
            _sends(b"HTTP/1.1 200 OK\r\ncontent-length: 26\r\n\r\n" + b'{"error":{"message":"no"}}'),
            Outcome.IN_BAND_ERROR,
            "no",
        ),
        (
            _sends(b"HTTP/1.1 307 Moved\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n"),
            Outcome.STATUS,
            "307: without an error object",
        ),
        (_sends(b"HTTP/1.1 502 Bad\r\n\r\n<html>", close=True), Outcome.STATUS, "502"),
        (_sends(b"HTTP/1.1 500 E\r\ncontent-length: 90\r\n\r\n{", close=True), Outcome.STATUS, "500"),
        (_sends(b"HTTP/1.1 200 OK\r\ncontent-", close=True), Outcome.CUT, "inside the head"),
    ],
)
def test_what_is_wrong_with_an_answer(
    serve: Callable[..., int], answer: _Serve, outcome: Outcome, detail: str
) -> None:
    client = Client(_target(serve(answer)), "m", silence=5)
    record = _ask(client)
    assert (record.outcome, record.detail) == (outcome, record.detail)
    assert detail in record.detail


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 400 No\r\ncontent-type: application/json\r\n", _HEAD], ids=["refused", "in band"]
)
def test_what_a_server_repeats_of_the_key_and_the_prompt_is_kept_nowhere(
    serve: Callable[..., int], head: bytes
) -> None:
    prompt = "비밀로 하기로 한 이야기를 아무에게도 하지 마세요"
    body = json.dumps({"error": {"type": "Bad", "message": f"sk-mine asked: {prompt}"}}).encode()
    sent = (b"data: " + body + b"\n\n" + _DONE) if head is _HEAD else body
    port = serve(_sends(head + b"content-length: %d\r\n\r\n" % len(sent) + sent))
    record = Record(index=0, item="x")
    with Client(_target(port), "m", "sk-mine") as client:
        asked = {"messages": [{"role": "user", "content": prompt}]}
        client.ask(Item("x", "g", "/v1/chat/completions", asked, 0, 1), record)
    assert record.detail.endswith("Bad: words that repeat the request")


@pytest.mark.parametrize("key", ["sk-a\nx-more: b", "sk-a\n", "sk a", "열쇠"])
def test_a_key_that_no_head_can_hold_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        Client(_target(1), "m", key)
    assert "\n" not in str(caught.value)
    assert key not in str(caught.value)


def test_interim_answers_do_not_break_a_silence(serve: Callable[..., int]) -> None:
    def answer(connection: socket.socket, request: bytes) -> None:
        with contextlib.suppress(OSError):  # the client leaves
            for _ in range(100):
                connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")
                time.sleep(0.05)

    record = _ask(Client(_target(serve(answer)), "m", silence=0.4))
    assert (record.outcome, record.detail) == (Outcome.TIMEOUT, "nothing came for 0.4 s before the answer")


def test_a_stream_without_end_is_left_when_it_is_longer_than_was_asked_for(serve: Callable[..., int]) -> None:
    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(_HEAD + b"\r\n" + _ROLE)
        with contextlib.suppress(OSError):  # the client leaves
            for _ in range(2000):
                connection.sendall(_TEXT.replace(b'"stop"', b"null") * 100)

    record = _ask(Client(_target(serve(answer)), "m", silence=5))
    assert record.outcome is Outcome.MALFORMED
    assert record.detail == "more than 260 events, where 1 tokens were asked for"
    assert len(record.event_times) < 2000


def test_an_event_without_end_is_left(serve: Callable[..., int]) -> None:
    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(_HEAD + b"\r\n")
        with contextlib.suppress(OSError):  # the client leaves
            for _ in range(64):
                connection.sendall(b"data: " + b"x" * 65536)

    record = _ask(Client(_target(serve(answer)), "m", silence=5))
    assert (record.outcome, record.detail) == (Outcome.MALFORMED, "an event is longer than 1048576 bytes")


def test_an_answer_before_the_request_is_read_is_taken() -> None:
    """A refusal of a body that is too large comes while the body is still being sent, and then a reset."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b'HTTP/1.1 413 Too Large\r\ncontent-length: 17\r\n\r\n{"error":"large"}')
                connection.shutdown(socket.SHUT_WR)
                time.sleep(0.3)

        thread = threading.Thread(target=refuse)
        thread.start()
        record = Record(index=0, item="x")
        body = {"prompt": "x" * 30_000_000}
        with Client(_target(listener.getsockname()[1]), "m", silence=5) as client:
            client.ask(Item("x", "g", "/v1/completions", body, 0, 1), record)
        thread.join()
    assert (record.outcome, record.detail) == (Outcome.STATUS, "413: large")


def test_what_is_sent(serve: Callable[..., int]) -> None:
    seen: list[bytes] = []

    def answer(connection: socket.socket, request: bytes) -> None:
        seen.append(request)
        connection.sendall(_sized(_STREAM))

    client = Client(_target(serve(answer)), "the-model", "the-key")
    assert _ask(client).ok
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\nauthorization: Bearer the-key" in head
    assert b"accept-encoding: identity" in head
    assert b'"model":"the-model"' in body
    assert b'"stream":true' in body
    assert b'"stream_options":{"include_usage":true}' in body
    assert b"return_token_ids" not in body


def test_a_connection_that_says_nothing_and_one_that_is_not_made_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        # What fills the backlog keeps every further connection waiting.
        target = _target(listener.getsockname()[1])
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        begun = time.monotonic()
        record = _ask(Client(target, "m", connect_timeout=0.3))
        assert (record.outcome, record.detail) == (Outcome.CONNECT, "no connection within 0.3 s")
        assert time.monotonic() - begun < 2
        for filler in fillers:
            filler.close()


def test_a_name_s_addresses_take_turns_and_one_that_refuses_is_left_behind(
    serve: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = serve(_sends(_HEAD + b"\r\n" + _STREAM, close=True))
    other = serve(_sends(b"HTTP/1.1 503 x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"))
    found = [
        (socket.AF_INET6, "::1", port),
        (socket.AF_INET, "127.0.0.1", port),
        (socket.AF_INET, "127.0.0.1", other),
    ]
    looked_up = []

    def look_up(self: Connector) -> list[tuple[int, tuple[str, int]]]:
        looked_up.append(1)
        return [(family, (host, at)) for family, host, at in found]

    monkeypatch.setattr(Connector, "_look_up", look_up)
    records = _asked(Client(_target(port), "m"), 4)
    assert [record.status for record in records] == [200, 503, 200, 503]
    assert looked_up == [1]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://no-such-host.invalid:80"])
def test_nobody_there(url: str) -> None:
    record = _ask(Client(parse_target(url), "m"))
    assert record.outcome is Outcome.CONNECT
    assert record.detail in ("connection refused", *[record.detail] * record.detail.startswith("the name is"))


def test_what_this_machine_could_not_do_is_not_blamed_on_the_server(serve: Callable[..., int]) -> None:
    target = _target(serve(_sends(_sized(_STREAM))))
    client = Client(target, "m")
    gevent.get_hub()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as probe:
        lowest = probe.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        record = _ask(client)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert record.outcome is Outcome.UNSENT
    assert "ulimit -n" in record.detail


# -- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file with a key and a self-made certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def _tls_client(
    port: int, ca_file: Path | None = None, *, insecure: bool = False, host: str = "127.0.0.1"
) -> Client:
    return Client(parse_target(f"https://{host}:{port}", ca_file=ca_file, insecure=insecure), "m", silence=3)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_streams_through_tls(
    serve: Callable[..., int], certificate: Path, tls: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    tls.minimum_version = tls.maximum_version = version
    big = b": " + b"x" * 200_000 + b"\n\n"
    whole = _sized(_ROLE + big + _TEXT + _DONE)
    client = _tls_client(serve(_sends(whole[:300], whole[300:]), tls), certificate)
    records = _asked(client, 3)
    assert [(record.outcome, record.detail) for record in records] == [(Outcome.OK, "")] * 3
    assert [record.reused for record in records] == [False, True, True]
    assert records[0].last_choice - records[0].first_choice > 5e6


def test_a_stream_through_tls_that_is_cut(
    serve: Callable[..., int], certificate: Path, tls: ssl.SSLContext
) -> None:
    client = _tls_client(
        serve(_sends(_HEAD + b"content-length: 999\r\n\r\n" + _ROLE, close=True), tls), certificate
    )
    record = _ask(client)
    assert (record.outcome, record.detail) == (Outcome.CUT, "closed by the server inside the body")
    assert record.first_choice


def test_a_certificate_that_nobody_vouches_for_is_refused_unless_told_otherwise(
    serve: Callable[..., int], certificate: Path, tls: ssl.SSLContext
) -> None:
    port = serve(_sends(_sized(_STREAM)), tls)
    record = _ask(_tls_client(port))
    assert record.outcome is Outcome.CONNECT
    assert record.detail == "TLS: the certificate is refused: self-signed certificate"
    record = _ask(_tls_client(port, certificate, host="localhost"))
    assert record.outcome is Outcome.CONNECT
    assert "localhost" in record.detail
    client = _tls_client(port, insecure=True)
    assert _ask(client).ok


def test_tls_to_a_server_that_speaks_none(serve: Callable[..., int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        record = _ask(_tls_client(listener.getsockname()[1]))
        thread.join()
    assert record.outcome is Outcome.CONNECT
    assert record.detail.startswith("TLS: ")


_AS_LOCUST = """
from gevent import monkey
monkey.patch_all()
import sys
from pathlib import Path
from tri_serve.load.records import Record
from tri_serve.load.wire.client import Client
from tri_serve.load.wire.connection import Connector
from tri_serve.load.wire.target import parse_target
from tri_serve.load.workload.items import Item
for url in sys.argv[2:]:
    with Client(parse_target(url, ca_file=Path(sys.argv[1])), "m") as client:
        for number in range(2):
            record = Record(index=number, item="x")
            client.ask(Item("x", "g", "/v1/chat/completions", {"messages": []}, 0, 1), record)
            print(record.outcome.value, record.reused, record.detail)
"""


def test_a_process_that_is_patched_by_gevent_asks_alike(
    serve: Callable[..., int], certificate: Path, tls: ssl.SSLContext
) -> None:
    """Locust patches the standard library before anything else."""
    plain, secure = serve(_sends(_sized(_STREAM))), serve(_sends(_sized(_STREAM)), tls)
    argv = [sys.executable, "-c", _AS_LOCUST, str(certificate)]
    argv += [f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{secure}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert [line.split() for line in done.stdout.splitlines()] == [["ok", "False"], ["ok", "True"]] * 2
