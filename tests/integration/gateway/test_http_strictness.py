"""What the public port takes and refuses, byte by byte."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator

import pytest
import requests

from .conftest import MODEL, Gateway, Mock, chat, start_gateway, wait_until

GOOD = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}).encode()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    mock = Mock()
    made = start_gateway(
        tmp_path_factory.mktemp("strict"),
        mock,
        limits={"head_bytes": 4096, "body_bytes": 100_000, "connections": 50},
        timeouts={"head": 1.0, "body": 1.0, "keep_alive": 1.0},
    )
    yield made
    made.stop()
    mock.stop()


def exchange(gateway: Gateway, data: bytes, *, half_close: bool = False, seconds: float = 10.0) -> bytes:
    """Send bytes, read until the gateway closes or falls silent for 0.5 s after something came."""
    with socket.create_connection(gateway.address, timeout=seconds) as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
                connection.settimeout(0.5)
        except TimeoutError:
            pass
        return answer


def post(
    body: bytes = GOOD, head: str = "", path: str = "/v1/chat/completions", version: str = "1.1"
) -> bytes:
    return (
        f"POST {path} HTTP/{version}\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{head}\r\n"
    ).encode() + body


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:200]
    return int(answer.split()[1])


def error_of(answer: bytes) -> dict[str, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"x-request-id: " in head
    error: dict[str, str] = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return error


REFUSED = {
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "length and chunked": (post(head="Transfer-Encoding: chunked\r\n"), 400),
    "two keys and an offer of another protocol": (
        post(
            head="Authorization: Bearer a\r\nAuthorization: Bearer b\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
        ),
        400,
    ),
    "two lengths": (post(head=f"Content-Length: {len(GOOD)}\r\n"), 400),
    "chunked in 1.0": (
        b"POST /v1/completions HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "gzip, chunked": (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "bare line feeds": (b"GET /health HTTP/1.1\nHost: x\n\n", 400),
    "folded header": (b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n 2\r\n\r\n", 400),
    "space before colon": (b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "other expectation": (post(head="Expect: 200-ok\r\n"), 417),
    "two keys": (post(head="Authorization: Bearer a\r\nAuthorization: Bearer b\r\n"), 400),
    "long header": (b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 5000 + b"\r\n\r\n", 431),
    "long header without end": (b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 9000, 431),
    "long target without end": (b"GET /" + b"a" * 9000, 431),
    "many headers": (
        b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(900)) + b"\r\n",
        431,
    ),
    "trailers without end": (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-A: " + b"a" * 600_000,
        431,
    ),
    "bad head before a good one": (
        b"GET /health HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
    ),
    "body too long by its length": (post(b"x" * 100_001), 413),
    "body too long by its chunks": (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
        + b"8000\r\n"
        + b"x" * 0x8000
        + b"\r\n"
        + (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 3,
        413,
    ),
    "form data": (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\na=b",
        415,
    ),
    "gzip body": (post(head="Content-Encoding: gzip\r\n"), 415),
    "no JSON": (post(b"{nope"), 400),
    "a list": (post(b"[]"), 400),
    "empty body": (post(b""), 400),
    "not UTF-8": (post(b'{"model":"\xff"}'), 400),
    "NaN": (post(b'{"model":NaN}'), 400),
    "deep nesting": (post(b'{"a":' * 5000 + b"1" + b"}" * 5000), 400),
    "model is a list": (post(b'{"model":[]}'), 400),
    "unknown model": (post(b'{"model":"gpt-4"}'), 404),
    "wrong method": (b"GET /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "unknown path": (b"GET /v1/nope HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    "half a head, then silence": (b"GET /health HTTP/1.1\r\nHost:", 408),
    "half a body, then silence": (post()[:-5], 408),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_request_gets_one_clear_error_and_the_gateway_goes_on(gateway: Gateway, name: str) -> None:
    data, status = REFUSED[name]
    answer = exchange(gateway, data)
    assert status_of(answer) == status, answer[:300]
    assert error_of(answer)["message"]
    assert len(re.findall(rb"HTTP/1\.1 \d\d\d ", answer)) == 1
    assert chat(gateway).status_code == 200


ADMIN = [
    ("POST", "/sleep"), ("POST", "/wake_up"), ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("POST", "/inference/v1/abort_requests"), ("GET", "/metrics"), ("GET", "/docs"), ("GET", "/openapi.json"),
    ("POST", "/reset_prefix_cache"), ("POST", "/collective_rpc"), ("GET", "/server_info"), ("POST", "/mock/fault"),
    ("POST", "/v1/chat/completions/../../sleep"), ("POST", "//sleep"), ("POST", "/v1/chat/completions%2f"),
    ("POST", "/V1/chat/completions"), ("POST", "/v1/responses/resp_1/cancel"), ("GET", "/v1/responses/resp_1"),
    ("POST", "http://evil/sleep"), ("CONNECT", "127.0.0.1:80"), ("POST", "/v1/chat/completions/render"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "target"), ADMIN)
def test_nothing_but_the_public_routes_reaches_an_engine(
    pair: tuple[Gateway, Mock, Mock], method: str, target: str
) -> None:
    gateway, *mocks = pair
    before = [mock.stats["paths"] for mock in mocks]
    body = b'{"model":"%b"}' % MODEL.encode()
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    answer = exchange(gateway, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert status_of(answer) in (400, 404)
    seen = [set(mock.stats["paths"]) - set(old) for mock, old in zip(mocks, before, strict=True)]
    # The gateway's first process asks for these two by itself; the test for the last.
    assert not set().union(*seen) - {"GET /health", "GET /metrics", "GET /mock/stats"}


def test_a_target_with_a_query_reaches_its_route(gateway: Gateway) -> None:
    assert status_of(exchange(gateway, post(path="/v1/chat/completions?beta=true"))) == 200


def test_an_offer_of_http2_is_declined_by_answering(gateway: Gateway) -> None:
    upgrade = (
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    )
    answer = exchange(gateway, post(head=upgrade) + post())
    assert answer.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize(("version", "more"), [("1.1", "Connection: close\r\n"), ("1.0", "")])
def test_an_offer_of_http2_on_a_connection_that_will_close_closes_it(
    gateway: Gateway, version: str, more: str
) -> None:
    offer = f"{more}Connection: Upgrade\r\nUpgrade: h2c\r\n"
    answer = exchange(gateway, post(head=offer, version=version) + post())
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"connection: close\r\n" in answer


def test_what_follows_the_last_request_of_a_connection_is_nobodys(gateway: Gateway) -> None:
    last = post(head="Connection: close\r\n")
    for more in (post(), b"\x00garbage", b"\r\n"):
        answer = exchange(gateway, last + more)
        assert answer.count(b"HTTP/1.1 200 OK") == 1
        assert b" 400 " not in answer


def test_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    wire = b"".join(post(head=f"X-Request-Id: r{n}\r\n") for n in range(20))
    answer = exchange(gateway, wire)
    assert answer.count(b"HTTP/1.1 200 OK") == 20
    positions = [answer.index(f"x-request-id: r{n}\r\n".encode()) for n in range(20)]
    assert positions == sorted(positions)


def test_requests_cut_at_every_byte_are_understood(gateway: Gateway) -> None:
    wire = post()
    with socket.create_connection(gateway.address, timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for position in range(len(wire)):
            connection.sendall(wire[position : position + 1])
        assert status_of(connection.recv(65536)) == 200


def test_a_client_that_waits_for_100_continue_gets_it(gateway: Gateway) -> None:
    wire = post(head="Expect: 100-continue\r\n")
    head, body = wire[: -len(GOOD)], wire[-len(GOOD) :]
    with socket.create_connection(gateway.address, timeout=10) as connection:
        connection.sendall(head)
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert status_of(connection.recv(65536)) == 200


def test_a_refused_upload_is_refused_before_it_is_sent(gateway: Gateway) -> None:
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
    )
    assert status_of(exchange(gateway, head.encode())) == 413


def test_a_413_arrives_although_the_client_is_still_sending(gateway: Gateway) -> None:
    with socket.create_connection(gateway.address, timeout=10) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 5000000\r\n\r\n"
        )
        for _ in range(20):
            connection.sendall(b"x" * 50_000)
        assert status_of(connection.recv(65536)) == 413


def test_an_http_1_0_client_gets_a_stream_without_chunks(gateway: Gateway) -> None:
    body = GOOD[:-1] + b',"stream":true}'
    answer = exchange(gateway, post(body, version="1.0"))
    head, _, stream = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert stream.startswith(b"data: {")
    assert stream.endswith(b"data: [DONE]\n\n")


def test_an_idle_connection_is_closed(gateway: Gateway) -> None:
    with socket.create_connection(gateway.address, timeout=10) as connection:
        connection.sendall(post())
        assert status_of(connection.recv(65536)) == 200
        started = time.monotonic()
        assert connection.recv(1) == b""
        assert 0.5 < time.monotonic() - started < 5


def test_slow_senders_of_heads_do_not_hold_up_others(gateway: Gateway) -> None:
    slow = [socket.create_connection(gateway.address, timeout=10) for _ in range(30)]
    for connection in slow:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: ")
    assert chat(gateway).status_code == 200
    for connection in slow:
        assert b" 408 " in connection.recv(65536)
        connection.close()


def test_connections_past_the_limit_are_told_so(gateway: Gateway) -> None:
    taken = [socket.create_connection(gateway.address, timeout=10) for _ in range(50)]
    wait_until(lambda: gateway.status["workers"][0]["connections"] == 50)
    with socket.create_connection(gateway.address, timeout=10) as one_more:
        assert one_more.recv(65536).startswith(b"HTTP/1.1 503 ")
    for connection in taken:
        connection.close()
    wait_until(lambda: gateway.status["workers"][0]["connections"] == 0)
    assert chat(gateway).status_code == 200


def test_head_of_a_local_route_has_no_body(gateway: Gateway) -> None:
    answer = exchange(gateway, b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"\r\n\r\n")


def test_a_good_request_id_is_kept_and_a_bad_one_replaced(gateway: Gateway) -> None:
    for given, kept in (("abc-1.2:3_X", True), ("a b", False), ("x" * 129, False), ("ü", False)):
        answer = requests.get(f"{gateway.url}/health", headers={"x-request-id": given.encode()}, timeout=5)
        assert (answer.headers["x-request-id"] == given) is kept
        assert answer.headers["x-request-id"]


def test_a_connection_that_repeats_its_head_is_still_checked_every_time(gateway: Gateway) -> None:
    bodies: list[tuple[bytes, int]] = [
        (GOOD, 200), (GOOD, 200), (GOOD[:-1] + b',"seed":1}', 200), (b"{nope", 400), (GOOD, 200),
        (b'{"model":"gpt-4"}', 404), (GOOD, 200), (GOOD + b" " * 70_000, 200), (GOOD, 200), (b"[]", 400),
    ]  # fmt: skip
    with socket.create_connection(gateway.address, timeout=10) as connection:
        for body, status in bodies:
            connection.sendall(post(body))
            assert status_of(connection.recv(65536)) == status
        connection.sendall(post() + post())
        answer = connection.recv(65536)
        while answer.count(b"HTTP/1.1 200 OK") < 2:
            answer += connection.recv(65536)


def test_what_stands_behind_the_last_request_is_dropped(gateway: Gateway) -> None:
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    for behind in (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"nonsense\r\n\r\n"):
        assert exchange(gateway, last + behind).count(b"HTTP/1.1 200 OK") == 1
    assert "Traceback" not in (gateway.directory / "gateway.log").read_text()


def test_a_head_without_end_behind_a_running_answer_is_not_collected(gateway: Gateway) -> None:
    stream = GOOD[:-1] + b',"stream":true,"mock":"stall-after=1"}'
    with socket.create_connection(gateway.address, timeout=10) as connection:
        connection.sendall(post(stream))
        assert status_of(connection.recv(65536)) == 200
        connection.settimeout(1)
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: ")
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 30_000_000:
                sent += connection.send(b"a" * 100_000)
