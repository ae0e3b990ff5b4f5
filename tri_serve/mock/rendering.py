"""What an answer looks like on the wire, in the four dialects that the engine speaks.

Field order and null fields are vLLM 0.32's: what reads its events byte by byte must meet the same bytes here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from .ask import Ask
from .text import END_ID, FIRST_WORD_ID, WORD_COUNT, WORDS, WORDS_JSON

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Rendering:
    """A streamed answer: events sent with the first token, one event a token, events after the last."""

    opening: tuple[bytes, ...]
    token: Callable[[int], bytes]
    """The event of token k of this answer, from 0."""
    closing: tuple[bytes, ...]


def render_stream(ask: Ask) -> Rendering:
    """The events of a streamed answer."""
    return _STREAMS[ask.dialect](ask)


def render_whole(ask: Ask) -> bytes:
    """The body of an answer that is not streamed."""
    return orjson.dumps(_WHOLES[ask.dialect](ask))


def error_object(status: int, kind: str, message: str, param: str | None = None) -> bytes:
    """vLLM's error body."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": status}})


def answer_text(ask: Ask) -> str:
    """The whole text of an answer."""
    words = ask.length - (1 if _ends(ask) else 0)
    start = ask.prompt.seed + ask.prompt.offset
    return "".join(WORDS[(start + k) % WORD_COUNT] for k in range(words))


def answer_ids(ask: Ask) -> list[int]:
    """All ids of an answer, the end of sequence included where there is one."""
    words = ask.length - (1 if _ends(ask) else 0)
    start = ask.prompt.seed + ask.prompt.offset
    ids = [FIRST_WORD_ID + (start + k) % WORD_COUNT for k in range(words)]
    return [*ids, END_ID] if _ends(ask) else ids


def usage(ask: Ask) -> dict[str, int]:
    """Token counts as vLLM orders them."""
    count = ask.prompt.count
    return {"prompt_tokens": count, "total_tokens": count + ask.length, "completion_tokens": ask.length}


def _ends(ask: Ask) -> bool:
    return ask.finish == "stop"


def _event(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _named(name: str, value: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps({"type": name, **value}) + b"\n\n"


def _words_between(
    ask: Ask,
    before: bytes,
    after: bytes,
    last_before: bytes,
    last_after: bytes,
    ids: tuple[bytes, bytes] | None,
) -> Callable[[int], bytes]:
    """Token k's event as prepared bytes around the word; ``ids`` go around its id, where that is wanted."""
    start = ask.prompt.seed + ask.prompt.offset
    last = ask.length - 1
    ends = _ends(ask)

    if ids is None:

        def token(k: int) -> bytes:
            if k == last:
                return last_before + (b"" if ends else WORDS_JSON[(start + k) % WORD_COUNT]) + last_after
            return before + WORDS_JSON[(start + k) % WORD_COUNT] + after

        return token
    left, right = ids

    def token_with_id(k: int) -> bytes:
        index = (start + k) % WORD_COUNT
        if k == last:
            number = END_ID if ends else FIRST_WORD_ID + index
            word = b"" if ends else WORDS_JSON[index]
            return b"%b%b%b%b[%d]%b" % (last_before, word, last_after, left, number, right)
        return b"%b%b%b%b[%d]%b" % (before, WORDS_JSON[index], after, left, FIRST_WORD_ID + index, right)

    return token_with_id


def _head(ask: Ask, kind: str) -> bytes:
    return b'data: {"id":"%b","object":"%b","created":%d,"model":%b,"choices":[' % (
        ask.request_id.encode(),
        kind.encode(),
        ask.created,
        orjson.dumps(ask.model),
    )


def _usage_event(ask: Ask, kind: str) -> tuple[bytes, ...]:
    if not ask.include_usage:
        return ()
    return (_head(ask, kind) + b'],"usage":' + orjson.dumps(usage(ask)) + b"}\n\n",)


def _chat_stream(ask: Ask) -> Rendering:
    kind = "chat.completion.chunk"
    head = _head(ask, kind)
    before = head + b'{"index":0,"delta":{"content":"'
    after = b'"},"logprobs":null,"finish_reason":null,"token_ids":'
    finish = b'"},"logprobs":null,"finish_reason":"%b","stop_reason":null,"token_ids":' % ask.finish.encode()
    prompt_ids = orjson.dumps(ask.prompt.ids()) if ask.token_ids else b"null"
    role = (
        head
        + b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'
        + b'"prompt_token_ids":%b,"prompt_text":null}\n\n' % prompt_ids
    )
    if ask.token_ids:
        token = _words_between(ask, before, after, before, finish, (b"", b"}]}\n\n"))
    else:
        token = _words_between(ask, before, after + b"null}]}\n\n", before, finish + b"null}]}\n\n", None)
    return Rendering((role,), token, (*_usage_event(ask, kind), DONE))


def _completion_stream(ask: Ask) -> Rendering:
    kind = "text_completion"
    before = _head(ask, kind) + b'{"index":0,"text":"'
    after = b'","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":'
    finish = after.replace(b'"finish_reason":null', b'"finish_reason":"%b"' % ask.finish.encode())
    if not ask.token_ids:
        token = _words_between(ask, before, after + b"null}]}\n\n", before, finish + b"null}]}\n\n", None)
        return Rendering((), token, (*_usage_event(ask, kind), DONE))
    later = _words_between(ask, before, after, before, finish, (b"", b"}]}\n\n"))
    prompt_ids = b'"prompt_token_ids":' + orjson.dumps(ask.prompt.ids())

    def token_with_ids(k: int) -> bytes:
        return later(k) if k else later(k).replace(b'"prompt_token_ids":null', prompt_ids)

    return Rendering((), token_with_ids, (*_usage_event(ask, kind), DONE))


def _messages_stream(ask: Ask) -> Rendering:
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
    block = {"index": 0, "content_block": {"type": "text", "text": ""}}
    kind = b"content_block_delta"
    before = b'event: %b\ndata: {"type":"%b","index":0,"delta":{"type":"text_delta","text":"' % (kind, kind)
    done = {
        "delta": {"stop_reason": _anthropic_stop(ask), "stop_sequence": None},
        "usage": {"input_tokens": ask.prompt.count, "output_tokens": ask.length},
    }
    return Rendering(
        (_named("message_start", {"message": message}), _named("content_block_start", block)),
        _words_between(ask, before, b'"}}\n\n', before, b'"}}\n\n', None),
        (
            _named("content_block_stop", {"index": 0}),
            _named("message_delta", done),
            _named("message_stop", {}),
        ),
    )


def _responses_stream(ask: Ask) -> Rendering:
    text = answer_text(ask)
    item_id = f"msg_{ask.request_id}"
    place = {"item_id": item_id, "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    item: dict[str, Any] = {
        "id": item_id,
        "type": "message",
        "role": "assistant",
        "status": "in_progress",
        "content": [],
    }
    started = _response_object(ask, "in_progress", [])
    whole = _response_object(ask, _response_status(ask), [_response_item(ask)])
    opening = (
        _named("response.created", {"sequence_number": 0, "response": started}),
        _named("response.in_progress", {"sequence_number": 1, "response": started}),
        _named("response.output_item.added", {"sequence_number": 2, "output_index": 0, "item": item}),
        _named("response.content_part.added", {"sequence_number": 3, **place, "part": part}),
    )
    number = len(opening)
    delta = orjson.dumps({"type": "response.output_text.delta", **place, "logprobs": []})[:-1]
    token_json = _words_between(ask, b"", b"", b"", b"", None)

    def token(k: int) -> bytes:
        return b'event: response.output_text.delta\ndata: %b,"sequence_number":%d,"delta":"%b"}\n\n' % (
            delta,
            number + k,
            token_json(k),
        )

    last = number + ask.length
    full = {**part, "text": text}
    closing = (
        _named("response.output_text.done", {"sequence_number": last, **place, "text": text, "logprobs": []}),
        _named("response.content_part.done", {"sequence_number": last + 1, **place, "part": full}),
        _named(
            "response.output_item.done",
            {"sequence_number": last + 2, "output_index": 0, "item": _response_item(ask)},
        ),
        _named("response.completed", {"sequence_number": last + 3, "response": whole}),
    )
    return Rendering(opening, token, closing)


def _chat_whole(ask: Ask) -> dict[str, Any]:
    return {
        "id": ask.request_id,
        "object": "chat.completion",
        "created": ask.created,
        "model": ask.model,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": answer_text(ask),
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "tool_calls": [],
                    "reasoning": None,
                },
                "logprobs": None,
                "finish_reason": ask.finish,
                "stop_reason": None,
                "token_ids": answer_ids(ask) if ask.token_ids else None,
            }
        ],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": {**usage(ask), "prompt_tokens_details": None},
        "prompt_logprobs": None,
        "prompt_token_ids": ask.prompt.ids() if ask.token_ids else None,
        "kv_transfer_params": None,
    }


def _completion_whole(ask: Ask) -> dict[str, Any]:
    return {
        "id": ask.request_id,
        "object": "text_completion",
        "created": ask.created,
        "model": ask.model,
        "choices": [
            {
                "index": 0,
                "text": answer_text(ask),
                "logprobs": None,
                "finish_reason": ask.finish,
                "stop_reason": None,
                "token_ids": answer_ids(ask) if ask.token_ids else None,
                "prompt_logprobs": None,
                "prompt_token_ids": ask.prompt.ids() if ask.token_ids else None,
            }
        ],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": {**usage(ask), "prompt_tokens_details": None},
        "kv_transfer_params": None,
    }


def _anthropic_stop(ask: Ask) -> str:
    return {"stop": "end_turn", "length": "max_tokens"}.get(ask.finish, ask.finish)


def _messages_whole(ask: Ask) -> dict[str, Any]:
    return {
        "id": ask.request_id,
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": answer_text(ask)}],
        "model": ask.model,
        "stop_reason": _anthropic_stop(ask),
        "usage": {"input_tokens": ask.prompt.count, "output_tokens": ask.length},
    }


def _response_status(ask: Ask) -> str:
    return "incomplete" if ask.finish == "length" else "completed"


def _response_item(ask: Ask) -> dict[str, Any]:
    part: dict[str, Any] = {
        "type": "output_text",
        "text": answer_text(ask),
        "annotations": [],
        "logprobs": None,
    }
    return {
        "id": f"msg_{ask.request_id}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }


def _response_object(ask: Ask, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    finished = status != "in_progress"
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    counts = {
        "input_tokens": ask.prompt.count,
        "output_tokens": ask.length,
        "total_tokens": ask.prompt.count + ask.length,
    }
    return {
        "id": ask.request_id,
        "object": "response",
        "created_at": ask.created,
        "status": status,
        "model": ask.model,
        "output": output,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "metadata": None,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": {**counts, **details} if finished else None,
    }


def _responses_whole(ask: Ask) -> dict[str, Any]:
    return _response_object(ask, _response_status(ask), [_response_item(ask)])


_STREAMS: dict[str, Callable[[Ask], Rendering]] = {
    "chat": _chat_stream,
    "completions": _completion_stream,
    "messages": _messages_stream,
    "responses": _responses_stream,
}
_WHOLES: dict[str, Callable[[Ask], dict[str, Any]]] = {
    "chat": _chat_whole,
    "completions": _completion_whole,
    "messages": _messages_whole,
    "responses": _responses_whole,
}
