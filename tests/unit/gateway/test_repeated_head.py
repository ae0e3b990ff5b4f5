"""A head that a connection repeats is recognised, and nothing else is."""

from __future__ import annotations

import pytest

from tri_serve.gateway.request import RepeatedHead, Request
from tri_serve.gateway.routes import ROUTES

HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\nX-Stainless-Lang: python\r\n\r\n"
)
LIMIT = 1000


def wire(body: bytes) -> bytes:
    return HEAD % len(body) + body


def good_request(body: bytes, **headers: bytes) -> Request:
    request = Request()
    request.method = b"POST"
    request.keep_alive = True
    request.route = ROUTES[b"/v1/chat/completions"]
    request.engine_head = b"POST /v1/chat/completions HTTP/1.1\r\n"
    request.headers = {b"content-length": b"%d" % len(body), **{k.encode(): v for k, v in headers.items()}}
    request.body = body
    return request


def learned(body: bytes = b'{"a":1}') -> RepeatedHead:
    head = RepeatedHead.learn(wire(body), good_request(body))
    assert head is not None
    return head


@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 10, b"y" * 1000])
def test_the_same_head_with_another_body_is_recognised(body: bytes) -> None:
    request = learned().match(wire(body), LIMIT)
    assert request is not None
    assert request.parts == [body]
    assert request.route is ROUTES[b"/v1/chat/completions"]
    assert request.request_id


OTHERS = {
    "another path": wire(b"{}").replace(b"chat/completions", b"completions"),
    "another key": wire(b"{}").replace(b"Bearer k", b"Bearer l"),
    "another header behind the length": wire(b"{}").replace(b"python", b"pythom"),
    "one header more": wire(b"{}").replace(b"\r\n\r\n", b"\r\nA: b\r\n\r\n"),
    "chunked besides": wire(b"{}").replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "body not whole": wire(b"{}")[:-1],
    "more than one body": wire(b"{}") + b"x",
    "two requests": wire(b"{}") * 2,
    "head not whole": wire(b"{}")[:60],
    "length with a sign": wire(b"{}").replace(b"Length: 2", b"Length: +2"),
    "length with a blank": wire(b"{}").replace(b"Length: 2", b"Length: 2 "),
    "length not ASCII": wire(b"{}").replace(b"Length: 2", "Length: ٢".encode()),
    "no length": wire(b"{}").replace(b"Length: 2", b"Length: "),
    "body over the limit": wire(b"z" * 1001),
    "nothing": b"",
}


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_goes_to_the_parser(name: str) -> None:
    assert learned().match(OTHERS[name], LIMIT) is None


def test_a_head_that_differs_every_time_is_not_learned() -> None:
    body = b"{}"
    for header in ("x-request-id", "traceparent", "expect", "transfer-encoding"):
        assert RepeatedHead.learn(wire(body), good_request(body, **{header: b"1"})) is None


def test_only_one_whole_request_is_learned_from() -> None:
    body = b"{}"
    assert RepeatedHead.learn(wire(body)[:-1], good_request(body)) is None
    assert RepeatedHead.learn(wire(body) + b"GET", good_request(body)) is None
    inside = b'{"a":"\r\ncontent-length: 5\r\n\r\n"}'
    head = RepeatedHead.learn(wire(inside), good_request(inside))
    assert head is not None
    assert head.match(wire(b"{}"), LIMIT) is not None


def test_a_connection_that_closes_or_speaks_1_0_is_not_learned_from() -> None:
    for attribute in ("keep_alive", "version_1_1"):
        request = good_request(b"{}")
        setattr(request, attribute, False)
        assert RepeatedHead.learn(wire(b"{}"), request) is None
