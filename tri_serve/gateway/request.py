"""One client request: its head checked for what the parser lets through, its body checked once, its way onward."""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import getrandbits
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import orjson

from tri_serve.gateway.replies import Refusal
from tri_serve.gateway.routes import ROUTES, Route

if TYPE_CHECKING:
    from tri_serve.gateway.worker import Worker

# What the gateway looks at or passes on. Each may come once. Everything else stays here: cookies, and headers
# that steer an engine's internals, do not reach it.
KNOWN_HEADERS = frozenset(
    (
        b"anthropic-beta",
        b"anthropic-version",
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"expect",
        b"host",
        b"traceparent",
        b"tracestate",
        b"transfer-encoding",
        b"x-api-key",
        b"x-request-id",
    )
)
PASSED_ON = (b"content-type", b"traceparent", b"tracestate", b"anthropic-version", b"anthropic-beta")

_NO_HEADERS: Mapping[bytes, bytes] = MappingProxyType({})
# Heads with one of these are different every time, or mean more than the bytes that follow them.
_CHANGING = frozenset((b"expect", b"traceparent", b"tracestate", b"transfer-encoding", b"x-request-id"))
_LENGTH_LINE = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})(?=\r\n)", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_PRINTABLE_TARGET = re.compile(rb"[\x21-\x7e]{1,80}")


class Request:
    """One request as it comes in; complete once its body is."""

    __slots__ = (
        "body",
        "engine_head",
        "head_bytes",
        "headers",
        "keep_alive",
        "method",
        "parts",
        "refusal",
        "repeated",
        "request_id",
        "route",
        "size",
        "target",
        "version_1_1",
    )

    def __init__(self) -> None:
        self.target = b""
        self.method = b""
        self.headers: Mapping[bytes, bytes] = _NO_HEADERS
        self.repeated: bytes | None = None
        self.head_bytes = 0
        self.version_1_1 = True
        self.keep_alive = False
        self.route: Route | None = None
        self.refusal: Refusal | None = None
        self.request_id = b""
        self.parts: list[bytes] = []
        self.size = 0
        self.body = b""
        self.engine_head = b""

    @property
    def route_name(self) -> str:
        """The route's metric label: one label for every path that is not ours."""
        return self.route.name if self.route is not None else "other"

    def head_again(self) -> bytes:
        """The head as it came, reduced to the headers that are known here; one that came twice still does."""
        headers = b"".join(b"%b: %b\r\n" % header for header in self.headers.items())
        if self.repeated is not None:
            headers += b"%b: %b\r\n" % (self.repeated, self.headers[self.repeated])
        if not self.keep_alive:
            headers += b"connection: close\r\n"
        version = b"1.1" if self.version_1_1 else b"1.0"
        return b"%b %b HTTP/%b\r\n%b\r\n" % (self.method, self.target, version, headers)

    def check_head(self, version: str, head_limit: int, body_limit: int) -> Refusal | None:
        """What the parser accepts and we do not, then the route. Fills in what the rest needs."""
        headers = self.headers
        claimed = headers.get(b"x-request-id", b"")
        self.request_id = claimed if _REQUEST_ID.fullmatch(claimed) else b"%032x" % getrandbits(128)
        path = self.target.partition(b"?")[0]
        self.route = ROUTES.get(path)
        refusal = (
            self._check_framing(version, head_limit, body_limit)
            or self._check_route(path, self.method)
            or self._check_media()
        )
        route = self.route
        if refusal is None and route is not None:
            passed = b"".join(
                [b"%b: %b\r\n" % (name, headers[name]) for name in PASSED_ON if name in headers]
            )
            self.engine_head = b"%b %b HTTP/1.1\r\n%b" % (route.method, route.path, passed)
        return refusal

    def _check_framing(self, version: str, head_limit: int, body_limit: int) -> Refusal | None:
        headers = self.headers
        if self.head_bytes > head_limit:
            return head_too_large(head_limit)
        if self.method == b"CONNECT":
            return _broken("bad_method", "this is no proxy")
        if version not in ("1.1", "1.0"):
            return _broken("bad_version", f"HTTP/{version} is not spoken here; use HTTP/1.1")
        if self.repeated is not None:
            return _broken("repeated_header", f"the header {self.repeated.decode()!r} may come only once")
        if self.version_1_1 and not headers.get(b"host"):
            return _broken("no_host", "an HTTP/1.1 request needs a Host header")
        if b"transfer-encoding" in headers:
            if not self.version_1_1:
                return _broken("bad_framing", "HTTP/1.0 has no Transfer-Encoding")
            if headers[b"transfer-encoding"].lower() != b"chunked":
                return _broken("bad_framing", "the only Transfer-Encoding taken is chunked")
        elif int(headers.get(b"content-length", b"0")) > body_limit:
            return body_too_large(body_limit)
        if b"expect" in headers and headers[b"expect"].lower() != b"100-continue":
            return Refusal(417, "bad_expect", "the only expectation met here is 100-continue", close=True)
        return None

    def _check_route(self, path: bytes, method: bytes) -> Refusal | None:
        route = self.route
        if route is None:
            shown = path.decode() if _PRINTABLE_TARGET.fullmatch(path) else "of this request"
            return Refusal(
                404,
                "unknown_path",
                f"Invalid URL ({method.decode()} {shown}); see /v1/models for what is served",
                code="unknown_url",
            )
        if method != route.method and not (route.local and method == b"HEAD"):
            return Refusal(
                405,
                "bad_method",
                f"{path.decode()} takes {route.method.decode()}, not {method.decode()}",
                code="method_not_allowed",
                headers=((b"allow", route.method),),
            )
        return None

    def _check_media(self) -> Refusal | None:
        if self.method != b"POST":
            return None
        media = self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if media != b"application/json":
            return Refusal(
                415, "media_type", "the body must be JSON, said so by 'content-type: application/json'"
            )
        if self.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            return Refusal(415, "media_type", "compressed request bodies are not taken")
        return None

    def add(self, data: bytes, body_limit: int) -> None:
        """Part of the body. Past the limit it is dropped and the request refused."""
        if self.refusal is not None:
            return
        self.size += len(data)
        if self.size > body_limit:
            self.parts.clear()
            self.refusal = body_too_large(body_limit)
        else:
            self.parts.append(data)

    def check_body(self, worker: Worker) -> Refusal | None:
        """The body is whole: is it JSON, and for a model that is served? Parsed once, passed on as it came."""
        self.body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.parts.clear()
        if self.method != b"POST":
            return None
        try:
            document: Any = orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            return Refusal(400, "bad_json", f"the body is not JSON: {error}", code="invalid_json")
        if not isinstance(document, dict):
            return Refusal(400, "bad_json", "the body must be a JSON object", code="invalid_json")
        model = document.get("model")
        if model is not None:
            if not isinstance(model, str):
                return Refusal(400, "bad_model", "'model' must be a string", param="model")
            if model not in worker.served_models:
                return _unknown_model(model, worker.served_models)
        if self.route is not None and self.route.api == "responses":
            for field in ("previous_response_id", "conversation", "background"):
                if document.get(field):
                    return Refusal(
                        400,
                        "stateful_responses",
                        f"{field!r} is not supported: responses are stateless here; send the whole input",
                        code="unsupported_parameter",
                        param=field,
                    )
        return None

    def engine_bytes(self, replica_head: bytes) -> bytes:
        """The request as an engine gets it: the body untouched, of the headers only those in PASSED_ON."""
        if self.method == b"GET":
            return b"%b%bx-request-id: %b\r\n\r\n" % (self.engine_head, replica_head, self.request_id)
        return b"%b%bcontent-length: %d\r\nx-request-id: %b\r\n\r\n%b" % (
            self.engine_head,
            replica_head,
            len(self.body),
            self.request_id,
            self.body,
        )

    def forget_body(self) -> None:
        """The answer has begun: what is only needed to ask again can go."""
        self.body = b""
        self.engine_head = b""
        self.headers = _NO_HEADERS


class RepeatedHead:
    """A request head that was checked once, recognised when the same connection sends it again.

    Clients repeat their heads on a connection, a dozen headers and more, but for the body's length. Bytes that
    are the same were found good already: only the length, and what follows the head, is looked at again.
    """

    __slots__ = ("_engine_head", "_method", "_prefix", "_route", "_suffix")

    def __init__(self, prefix: bytes, suffix: bytes, request: Request) -> None:
        self._prefix = prefix
        self._suffix = suffix
        self._route = request.route
        self._method = request.method
        self._engine_head = request.engine_head

    @classmethod
    def learn(cls, data: bytes, request: Request) -> RepeatedHead | None:
        """From the bytes of one whole request that was found good; None if its head will not repeat."""
        headers = request.headers
        good = request.method == b"POST" and request.keep_alive and request.version_1_1
        if not good or not _CHANGING.isdisjoint(headers):
            return None
        found = _LENGTH_LINE.search(data, 0, len(data) - len(request.body))
        if found is None or not data.endswith(b"\r\n\r\n" + request.body):
            return None
        suffix = data[found.end(1) : len(data) - len(request.body)]
        return None if b"\r\n\r\n" in suffix[:-4] else cls(data[: found.start(1)], suffix, request)

    def match(self, data: bytes, body_limit: int) -> Request | None:
        """The request in ``data`` if that is this head again and exactly one whole body behind it."""
        if not data.startswith(self._prefix):
            return None
        start = len(self._prefix)
        end = data.find(b"\r", start, start + 10)
        digits = data[start:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self._suffix, end):
            return None
        body = data[end + len(self._suffix) :]
        if len(body) != int(digits) or len(body) > body_limit:
            return None
        request = Request()
        request.method = self._method
        request.keep_alive = True
        request.route = self._route
        request.request_id = b"%032x" % getrandbits(128)
        request.engine_head = self._engine_head
        request.parts.append(body)
        return request


def head_too_large(limit: int) -> Refusal:
    """431."""
    message = f"request line and headers exceed {limit} bytes"
    return Refusal(431, "head_too_large", message, code="headers_too_large", close=True)


def body_too_large(limit: int) -> Refusal:
    """413."""
    message = f"the body exceeds {limit} bytes (gateway.limits.body_bytes)"
    return Refusal(413, "body_too_large", message, code="request_too_large", close=True)


def _broken(reason: str, message: str) -> Refusal:
    return Refusal(400, reason, message, code="bad_request", close=True)


def _unknown_model(model: str, served: frozenset[str]) -> Refusal:
    shown = model if len(model) <= 100 else model[:100] + "…"
    known = ", ".join(sorted(served))
    return Refusal(
        404,
        "unknown_model",
        f"The model `{shown}` does not exist; served here: {known}",
        code="model_not_found",
        param="model",
    )
