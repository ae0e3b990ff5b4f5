"""The routes that a client can reach. Everything else is 404: an engine's admin routes above all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Api = Literal["chat", "completions", "responses", "messages", "plain"]


@dataclass(frozen=True, slots=True)
class Route:
    """One path. ``api`` decides how errors look inside a stream; ``local`` routes never reach an engine."""

    path: bytes
    method: bytes
    name: str
    api: Api = "plain"
    local: bool = False


ROUTES: Mapping[bytes, Route] = {
    route.path: route
    for route in (
        Route(b"/v1/chat/completions", b"POST", "chat_completions", "chat"),
        Route(b"/v1/completions", b"POST", "completions", "completions"),
        Route(b"/v1/responses", b"POST", "responses", "responses"),
        Route(b"/v1/messages", b"POST", "messages", "messages"),
        Route(b"/v1/models", b"GET", "models"),
        Route(b"/tokenize", b"POST", "tokenize"),
        Route(b"/detokenize", b"POST", "detokenize"),
        Route(b"/health", b"GET", "health", local=True),
        Route(b"/ready", b"GET", "ready", local=True),
    )
}
