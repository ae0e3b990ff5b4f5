"""Requests out of a client's bytes: parsed by httptools, bounded while they come, checked as soon as can be."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Protocol, cast

import httptools

from tri_serve.gateway.replies import Refusal
from tri_serve.gateway.request import KNOWN_HEADERS, Request, head_too_large

if TYPE_CHECKING:
    from tri_serve.gateway.worker import Worker

# A refused body up to this size is awaited, so that the connection can be used again.
AWAITED_BODY_BYTES = 65_536


class RequestTaker(Protocol):
    """Whom a reader tells what it has read."""

    def head_complete(self, request: Request) -> None:
        """The head is there and has been checked."""

    def request_complete(self, request: Request) -> None:
        """The body is there, too."""


class RequestReader:
    """One connection's parser. httptools calls back into it while it is fed."""

    __slots__ = (
        "_fed",
        "_headers",
        "_parser",
        "_taker",
        "_verified",
        "_worker",
        "incoming",
        "last_is_in",
        "stopped",
    )

    def __init__(self, worker: Worker, taker: RequestTaker) -> None:
        self._worker = worker
        self._taker = taker
        self._parser = httptools.HttpRequestParser(self)
        self._headers: dict[bytes, bytes] = {}
        # Bytes since the parser last reported anything that it does not collect.
        self._fed = 0
        self._verified = b""
        self.incoming: Request | None = None
        """The request of which part has come."""
        self.last_is_in = False
        """The request that asked for the connection's end is whole: whatever follows it is nobody's."""
        self.stopped = False
        """Nothing that comes is taken any more."""

    def feed(self, data: bytes) -> None:
        """Parse on. Raises httptools.HttpParserError at what is not HTTP/1.1."""
        # The parser reports a header only when it is whole, in trailers, too: bound what it may be collecting.
        self._fed += len(data)
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self.stopped or self.incoming is None:
                    return
                # The client offers another protocol (Java's HTTP client always offers h2c). RFC 9110 section
                # 7.8 lets a server decline by answering as ever, but the parser takes the body for the other
                # protocol's bytes: have a fresh one read the same request without the offer.
                data = self.incoming.head_again() + data[upgrade.args[0] :]
                self._parser = httptools.HttpRequestParser(self)
            else:
                return

    def stop(self) -> None:
        """Drop what has come in part, and take nothing more."""
        self.stopped = True
        self.incoming = None

    def refused_early(self) -> Refusal | None:
        """Why the request that is coming in is refused, if its body is not worth waiting for."""
        request = self.incoming
        if request is None or self.stopped:
            return None
        head_limit = self._worker.limits.head_bytes
        if self._fed > head_limit:
            request.refusal = head_too_large(head_limit)
        refusal = request.refusal
        if refusal is None:
            return None
        length = int(request.headers.get(b"content-length", b"-1"))
        if not refusal.close and b"expect" not in request.headers and 0 <= length <= AWAITED_BODY_BYTES:
            return None
        return refusal

    # -- what httptools calls while it is fed

    def on_message_begin(self) -> None:
        self.incoming = request = Request()
        request.headers = self._headers = {}

    def on_url(self, url: bytes) -> None:
        request = cast("Request", self.incoming)
        request.target += url
        request.head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        request = cast("Request", self.incoming)
        request.head_bytes += len(name) + len(value) + 4
        name = name.lower()
        if name in KNOWN_HEADERS:
            if name in self._headers:
                request.repeated = name
            self._headers[name] = value

    def on_headers_complete(self) -> None:
        request = cast("Request", self.incoming)
        parser = self._parser
        limits = self._worker.limits
        self._fed = 0
        if self.stopped:
            return
        request.method = parser.get_method()
        request.keep_alive = parser.should_keep_alive()
        request.version_1_1 = parser.get_http_version() == "1.1"
        if self._is_offer(request):
            return
        request.refusal = request.check_head(
            parser.get_http_version(), limits.head_bytes, limits.body_bytes
        ) or self._check_key(request)
        self._taker.head_complete(request)

    def on_chunk_header(self) -> None:
        self._fed = 0

    def on_body(self, body: bytes) -> None:
        self._fed = 0
        cast("Request", self.incoming).add(body, self._worker.limits.body_bytes)

    def on_message_complete(self) -> None:
        request = cast("Request", self.incoming)
        if self.stopped or self._is_offer(request):
            return
        self.incoming = None
        self.last_is_in = not request.keep_alive
        self._taker.request_complete(request)

    def _is_offer(self, request: Request) -> bool:
        return bool(self._parser.should_upgrade()) and request.method != b"CONNECT"

    def _check_key(self, request: Request) -> Refusal | None:
        keys = self._worker.keys
        if not keys or (request.route is not None and request.route.local):
            return None
        headers = request.headers
        given = headers.get(b"authorization")
        if given is not None:
            scheme, _, key = given.partition(b" ")
            key = key.strip() if scheme.lower() == b"bearer" else b""
        else:
            key = headers.get(b"x-api-key", b"")
        if not key:
            message = "You didn't provide an API key; send it as 'Authorization: Bearer KEY'"
            return Refusal(401, "no_key", message, code="missing_api_key")
        if self._verified and hmac.compare_digest(key, self._verified):
            return None
        if keys.name_of(key) is None:
            return Refusal(401, "wrong_key", "Incorrect API key provided", code="invalid_api_key")
        self._verified = key
        return None
