"""Runs inside vLLM's server, by ``--middleware``: wants the engine's key on every route that does work.

vLLM itself wants its key below /v1 and some other prefixes only; /invocations answers chats without (0.32,
entrypoints/serve/middleware/authenticate.py), and so do the admin routes. Belongs to no package, since the engine's
Python has none of tri-serve; it imports the standard library alone.
"""

import hashlib
import hmac
import os
from typing import Any

_OPEN = frozenset({"/health", "/ping", "/metrics", "/version"})
"""What probes and scrapers ask, and shows nothing of anybody's requests."""
_BODY = (
    b'{"error":{"message":"this engine answers its gateway alone","type":"invalid_request_error","code":401}}'
)


class WantKey:
    """ASGI middleware: 401 without ``Authorization: Bearer`` and the key that is in VLLM_API_KEY."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._digest = hashlib.sha256(os.environ["VLLM_API_KEY"].encode()).digest()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or scope.get("path") in _OPEN or self._has_key(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": _BODY})

    def _has_key(self, scope: dict[str, Any]) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1 or given[0][:7].lower() != b"bearer ":
            return False
        return hmac.compare_digest(hashlib.sha256(given[0][7:]).digest(), self._digest)
