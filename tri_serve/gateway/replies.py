"""What the gateway itself says to clients: error objects in the shape of the API that was asked, and heads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from tri_serve.gateway.routes import Api

STATUS_LINES: dict[int, bytes] = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}

ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer. ``reason`` is the metric label; ``kind`` and ``code`` are OpenAI's error type and code."""

    status: int
    reason: str
    message: str
    kind: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    close: bool = False
    """End the connection after the answer: its framing, or what is left unread on it, cannot be trusted."""


def status_line(status: int) -> bytes:
    """The status line, for numbers outside the registry too."""
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d Status\r\n" % status


def error_object(refusal: Refusal, api: Api) -> bytes:
    """The JSON body: OpenAI's error object, or Anthropic's on its own route."""
    if api == "messages":
        kind = ANTHROPIC_TYPES.get(refusal.status, "api_error")
        body: dict[str, object] = {"type": "error", "error": {"type": kind, "message": refusal.message}}
    else:
        body = {
            "error": {
                "message": refusal.message,
                "type": refusal.kind,
                "param": refusal.param,
                "code": refusal.code,
            }
        }
    return json.dumps(body, ensure_ascii=False).encode()


def error_event(message: str, code: str, api: Api, events_sent: int) -> bytes:
    """The event that ends a stream which cannot go on, as clients of ``api`` expect it.

    ``code`` is OpenAI's, for the APIs whose errors have room for it. ``events_sent`` numbers the Responses
    event: that API counts its events from 0.
    """
    body: dict[str, object]
    if api == "messages":
        body = {"type": "error", "error": {"type": "api_error", "message": message}}
        return b"event: error\ndata: %b\n\n" % json.dumps(body).encode()
    if api == "responses":
        body = {
            "type": "error",
            "code": "server_error",
            "message": message,
            "param": None,
            "sequence_number": events_sent,
        }
        return b"event: error\ndata: %b\n\n" % json.dumps(body).encode()
    error = {"message": message, "type": "server_error", "param": None, "code": code}
    return b"data: %b\n\n" % json.dumps({"error": error}).encode()


def head(lines: bytes, *, request_id: bytes, framing: bytes, close: bool) -> bytes:
    """A response head: ``lines`` are status line and headers.

    ``framing`` is the complete Content-Length or Transfer-Encoding line, or empty.
    """
    return b"%bx-request-id: %b\r\n%b%b" % (
        lines,
        request_id,
        framing,
        b"connection: close\r\n\r\n" if close else b"\r\n",
    )


def head_lines(status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Status line and headers, each with its line end."""
    return status_line(status) + b"".join(b"%b: %b\r\n" % header for header in headers)


def no_replica(*, draining: bool) -> Refusal:
    """Nothing can answer now; a client may come back."""
    return Refusal(
        503,
        "no_replica",
        "the gateway is shutting down"
        if draining
        else "no replica is ready to answer; retry in a few seconds",
        kind="service_unavailable",
        code="no_ready_replica",
        headers=((b"retry-after", b"5"),),
        close=draining,
    )


def engine_unreachable(attempts: int) -> Refusal:
    """Every attempt failed before anything was answered."""
    tried = "1 replica" if attempts == 1 else f"{attempts} attempts"
    return Refusal(
        503,
        "engine_failed",
        f"no replica could answer ({tried} failed before the first byte); nothing was generated, retry is safe",
        kind="service_unavailable",
        code="engine_failed",
        headers=((b"retry-after", b"5"),),
    )


def replica_drained() -> Refusal:
    """The replica is being stopped, and there is no other to ask."""
    return Refusal(
        503,
        "drained",
        "the replica that had this request is drained and no other is ready; nothing was sent, retry is safe",
        kind="service_unavailable",
        code="replica_drained",
        headers=((b"retry-after", b"5"),),
    )


def engine_timeout(seconds: float) -> Refusal:
    """The engine took the request and stayed silent."""
    return Refusal(
        504,
        "engine_timeout",
        f"the engine sent nothing within {seconds:g} s",
        kind="timeout_error",
        code="engine_timeout",
    )
