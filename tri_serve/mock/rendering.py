"""What an answer looks like on the wire, in whichever dialect it was asked for.

Field order and null fields are vLLM 0.32's: what reads its events byte by byte must meet the same bytes here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from .answer import Rendering
from .ask import Ask
from .named_dialects import messages_stream, messages_whole, responses_stream, responses_whole
from .openai_dialects import chat_stream, chat_whole, completion_stream, completion_whole

_STREAMS: dict[str, Callable[[Ask], Rendering]] = {
    "chat": chat_stream,
    "completions": completion_stream,
    "messages": messages_stream,
    "responses": responses_stream,
}
_WHOLES: dict[str, Callable[[Ask], dict[str, Any]]] = {
    "chat": chat_whole,
    "completions": completion_whole,
    "messages": messages_whole,
    "responses": responses_whole,
}


def render_stream(ask: Ask) -> Rendering:
    """The events of a streamed answer."""
    return _STREAMS[ask.dialect](ask)


def render_whole(ask: Ask) -> bytes:
    """The body of an answer that is not streamed."""
    return orjson.dumps(_WHOLES[ask.dialect](ask))


def error_object(status: int, kind: str, message: str, param: str | None = None) -> bytes:
    """vLLM's error body."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": status}})
