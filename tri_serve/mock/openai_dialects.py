"""Chat completions and completions as vLLM 0.32 writes them, field by field."""

from __future__ import annotations

from typing import Any

import orjson

from .answer import FINGERPRINT, Rendering, answer_ids, answer_text, token_events, token_events_with_ids
from .ask import Ask

DONE = b"data: [DONE]\n\n"
_STAMP = b',"system_fingerprint":"' + FINGERPRINT.encode() + b'"'


def chat_stream(ask: Ask) -> Rendering:
    """The role event, the tokens, usage if asked for, and [DONE]."""
    head = _head(ask, "chat.completion.chunk")
    before = head + b'{"index":0,"delta":{"content":"'
    after = b'"},"logprobs":null,"finish_reason":null,"token_ids":'
    last_after = (
        b'"},"logprobs":null,"finish_reason":"%b","stop_reason":null,"token_ids":' % ask.finish.encode()
    )
    close = b"}]}\n\n"
    last_close = _last_close(ask)
    prompt_ids = orjson.dumps(ask.prompt.ids()) if ask.token_ids else b"null"
    role = (
        head
        + b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'
        + b'"prompt_token_ids":%b,"prompt_text":null}\n\n' % prompt_ids
    )
    if ask.token_ids:
        token = token_events_with_ids(ask, before, after, last_after, close, last_close)
    else:
        token = token_events(ask, before, after + b"null" + close, before, last_after + b"null" + last_close)
    return Rendering((role,), token, (*_usage_event(ask, "chat.completion.chunk"), DONE))


def completion_stream(ask: Ask) -> Rendering:
    """The tokens, usage if asked for, and [DONE]."""
    before = _head(ask, "text_completion") + b'{"index":0,"text":"'
    after = b'","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":'
    last_after = after.replace(b'"finish_reason":null', b'"finish_reason":"%b"' % ask.finish.encode())
    close = b"}]}\n\n"
    last_close = _last_close(ask)
    closing = (*_usage_event(ask, "text_completion"), DONE)
    if not ask.token_ids:
        token = token_events(ask, before, after + b"null" + close, before, last_after + b"null" + last_close)
        return Rendering((), token, closing)
    later = token_events_with_ids(ask, before, after, last_after, close, last_close)
    prompt_ids = b'"prompt_token_ids":' + orjson.dumps(ask.prompt.ids())

    def token_with_prompt(k: int) -> bytes:
        return later(k) if k else later(k).replace(b'"prompt_token_ids":null', prompt_ids)

    return Rendering((), token_with_prompt, closing)


def chat_whole(ask: Ask) -> dict[str, Any]:
    """A chat completion that is not streamed."""
    message = {
        "role": "assistant",
        "content": answer_text(ask),
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "reasoning": None,
    }
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": ask.finish,
        "stop_reason": None,
        "token_ids": answer_ids(ask) if ask.token_ids else None,
        "routed_experts": None,
    }
    return {
        **_whole(ask, "chat.completion", choice),
        "prompt_logprobs": None,
        "prompt_token_ids": ask.prompt.ids() if ask.token_ids else None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def completion_whole(ask: Ask) -> dict[str, Any]:
    """A completion that is not streamed."""
    choice = {
        "index": 0,
        "text": answer_text(ask),
        "logprobs": None,
        "finish_reason": ask.finish,
        "stop_reason": None,
        "token_ids": answer_ids(ask) if ask.token_ids else None,
        "prompt_logprobs": None,
        "prompt_token_ids": ask.prompt.ids() if ask.token_ids else None,
        "routed_experts": None,
    }
    return {
        **_whole(ask, "text_completion", choice),
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def _whole(ask: Ask, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": ask.request_id,
        "object": kind,
        "created": ask.created,
        "model": ask.model,
        "choices": [choice],
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": {**_usage(ask), "prompt_tokens_details": None, "completion_tokens_details": None},
    }


def _usage(ask: Ask) -> dict[str, int]:
    count = ask.prompt.count
    return {"prompt_tokens": count, "total_tokens": count + ask.length, "completion_tokens": ask.length}


def _head(ask: Ask, kind: str) -> bytes:
    return b'data: {"id":"%b","object":"%b","created":%d,"model":%b,"choices":[' % (
        ask.request_id.encode(),
        kind.encode(),
        ask.created,
        orjson.dumps(ask.model),
    )


def _last_close(ask: Ask) -> bytes:
    # The fingerprint is on the last event with content, or on the usage event that follows it.
    return b"}]}\n\n" if ask.include_usage else b"}]%b}\n\n" % _STAMP


def _usage_event(ask: Ask, kind: str) -> tuple[bytes, ...]:
    if not ask.include_usage:
        return ()
    return (_head(ask, kind) + b'],"usage":' + orjson.dumps(_usage(ask)) + _STAMP + b"}\n\n",)
