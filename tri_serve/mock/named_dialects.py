"""Anthropic's messages and OpenAI's responses as vLLM 0.32 writes them: events with names, in their order."""

from __future__ import annotations

from typing import Any

import orjson

from .answer import Rendering, answer_text, token_events
from .ask import Ask


def messages_stream(ask: Ask) -> Rendering:
    """message_start, one content block with a delta a token, message_delta, message_stop."""
    message: dict[str, Any] = {
        "id": ask.request_id,
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": ask.model,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": ask.prompt.count, "output_tokens": 0},
    }
    name = b"content_block_delta"
    before = b'event: %b\ndata: {"type":"%b","delta":{"type":"text_delta","text":"' % (name, name)
    after = b'"},"index":0}\n\n'
    done = {
        "delta": {"stop_reason": _stop_reason(ask), "stop_sequence": None},
        "usage": {"input_tokens": ask.prompt.count, "output_tokens": ask.length},
    }
    start = {"content_block": {"type": "text", "text": ""}, "index": 0}
    return Rendering(
        (_message_event("message_start", {"message": message}), _message_event("content_block_start", start)),
        token_events(ask, before, after, before, after),
        (
            _message_event("content_block_stop", {"index": 0}),
            _message_event("message_delta", done),
            _message_event("message_stop", {}),
        ),
    )


def messages_whole(ask: Ask) -> dict[str, Any]:
    """A message that is not streamed."""
    return {
        "id": ask.request_id,
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": answer_text(ask)}],
        "model": ask.model,
        "stop_reason": _stop_reason(ask),
        "usage": {"input_tokens": ask.prompt.count, "output_tokens": ask.length},
    }


def responses_stream(ask: Ask) -> Rendering:
    """created, in_progress, one item with one part and a delta a token, the four that are done."""
    text = answer_text(ask)
    item_id = _item_id(ask)
    started = _response(ask, "in_progress", [])
    item: dict[str, Any] = {
        "id": item_id,
        "content": [],
        "role": "assistant",
        "status": "in_progress",
        "type": "message",
        "phase": None,
    }
    part = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
    added = {"content_index": 0, "item_id": item_id, "output_index": 0}
    opening = (
        _response_event("response.created", {"response": started}, 0),
        _response_event("response.in_progress", {"response": started}, 1),
        _response_event("response.output_item.added", {"item": item, "output_index": 0}, 2),
        _response_event("response.content_part.added", {**added, "part": part}, 3),
    )
    first = len(opening)
    name = b"response.output_text.delta"
    before = b'event: %b\ndata: {"content_index":0,"delta":"' % name
    middle = b'","item_id":"%b","logprobs":[],"output_index":0,"sequence_number":' % item_id.encode()
    words = token_events(ask, before, middle, before, middle)

    def token(k: int) -> bytes:
        return b'%b%d,"type":"%b"}\n\n' % (words(k), first + k, name)

    last = first + ask.length
    done = {"content_index": 0, "item_id": item_id, "logprobs": [], "output_index": 0}
    closing = (
        _response_event("response.output_text.done", done, last, {"text": text}),
        _response_event("response.content_part.done", {**added, "part": _part(text)}, last + 1),
        _response_event("response.output_item.done", {"item": _item(ask, text), "output_index": 0}, last + 2),
        _response_event("response.completed", {"response": responses_whole(ask)}, last + 3),
    )
    return Rendering(opening, token, closing)


def responses_whole(ask: Ask) -> dict[str, Any]:
    """A response that is not streamed."""
    status = "incomplete" if ask.finish == "length" else "completed"
    return _response(ask, status, [_item(ask, answer_text(ask))])


def _message_event(name: str, value: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name, **value}))


def _response_event(
    name: str, value: dict[str, Any], number: int, more: dict[str, Any] | None = None
) -> bytes:
    whole = {**value, "sequence_number": number, **(more or {}), "type": name}
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(whole))


def _stop_reason(ask: Ask) -> str:
    return {"stop": "end_turn", "length": "max_tokens"}.get(ask.finish, ask.finish)


def _item_id(ask: Ask) -> str:
    return "msg_" + ask.request_id.removeprefix("resp_")


def _part(text: str) -> dict[str, Any]:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": None}


def _item(ask: Ask, text: str) -> dict[str, Any]:
    return {
        "id": _item_id(ask),
        "content": [_part(text)],
        "role": "assistant",
        "status": "completed",
        "type": "message",
        "phase": None,
    }


def _response(ask: Ask, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    usage = {
        "input_tokens": ask.prompt.count,
        "input_tokens_details": {
            "cached_tokens": 0,
            "cache_write_tokens": 0,
            "input_tokens_per_turn": [],
            "cached_tokens_per_turn": [],
        },
        "output_tokens": ask.length,
        "output_tokens_details": {
            "reasoning_tokens": 0,
            "tool_output_tokens": 0,
            "output_tokens_per_turn": [],
            "tool_output_tokens_per_turn": [],
        },
        "total_tokens": ask.prompt.count + ask.length,
    }
    return {
        "id": ask.request_id,
        "created_at": ask.created,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "metadata": None,
        "model": ask.model,
        "object": "response",
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "none",
        "tools": [],
        "top_p": 1.0,
        "background": False,
        "max_output_tokens": ask.length,
        "max_tool_calls": None,
        "previous_response_id": None,
        "prompt": None,
        "reasoning": None,
        "service_tier": "auto",
        "status": status,
        "text": None,
        "top_logprobs": None,
        "truncation": "disabled",
        "usage": None if status == "in_progress" else usage,
        "user": None,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "input_messages": None,
        "output_messages": None,
    }
