"""From a request body to an Ask: what is asked for, checked as vLLM checks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tri_serve.errors import UsageError

from .faults import Fault, parse_fault
from .settings import MockSettings
from .text import Prompt, prompt_of_ids

_PREFIX = {"chat": "chatcmpl-", "completions": "cmpl-", "messages": "chatcmpl-", "responses": "resp_"}


class RefusalError(Exception):
    """A request is answered with an error object and not served."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.param = param


@dataclass(frozen=True, slots=True)
class Ask:
    """One generation: its prompt, its length in tokens, and how it wants to be told."""

    dialect: str
    """chat, completions, messages or responses."""
    request_id: str
    created: int
    model: str
    prompt: Prompt
    length: int
    finish: str
    stream: bool
    include_usage: bool
    token_ids: bool
    fault: Fault


def parse_json(body: bytes) -> dict[str, Any]:
    """A request body as an object; raises RefusalError with vLLM's answer to malformed JSON."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RefusalError(400, "Bad Request", f"JSON decode error: {error}") from None
    if not isinstance(value, dict):
        raise RefusalError(400, "Bad Request", "The request body must be a JSON object")
    return value


def read_ask(
    dialect: str,
    value: dict[str, Any],
    header_fault: str,
    standing: Fault,
    settings: MockSettings,
    *,
    number: int,
    created: int,
) -> Ask:
    """Check a generation request. Word by word, the header's fault wins over the body's, that over the standing.

    Raises RefusalError as the engine would.
    """
    try:
        fault = parse_fault(header_fault, parse_fault(str(value.get("mock", "")), standing))
    except UsageError as error:
        raise RefusalError(400, "BadRequestError", error.message, "mock") from None
    model = value.get("model")
    if model is not None and model != settings.model:
        raise RefusalError(
            404,
            "NotFoundError",
            f"The model `{model}` does not exist. Valid aliases: {settings.model}.",
            "model",
        )
    prompt = _prompt(dialect, value)
    if prompt.count >= settings.max_model_len:
        raise RefusalError(
            400,
            "BadRequestError",
            f"This model's maximum context length is {settings.max_model_len} tokens. However, your prompt "
            f"contains {prompt.count} input tokens, which exceeds this limit even without any output tokens. "
            f"Please reduce the length of the input prompt. (parameter=input_tokens, value={prompt.count})",
            "input_tokens",
        )
    limit = _limit(value)
    own = fault.tokens or max(1, settings.tokens - prompt.offset)
    length = min(own if limit is None else limit, settings.max_model_len - prompt.count)
    options = value.get("stream_options")
    return Ask(
        dialect=dialect,
        request_id=f"{_PREFIX[dialect]}mock-{number:012x}",
        created=created,
        model=settings.model,
        prompt=prompt,
        length=length,
        finish=fault.finish or ("length" if limit is not None else "stop"),
        stream=value.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        token_ids=value.get("return_token_ids") is True,
        fault=fault,
    )


def _limit(value: Mapping[str, Any]) -> int | None:
    for key in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        limit = value.get(key)
        if limit is not None:
            if not isinstance(limit, int) or limit < 1:
                raise RefusalError(
                    400,
                    "BadRequestError",
                    f"{key} must be at least 1, got {limit}. (parameter={key}, value={limit})",
                    key,
                )
            return limit
    return None


def _prompt(dialect: str, value: Mapping[str, Any]) -> Prompt:
    if dialect == "completions":
        return completion_prompt(value.get("prompt"))
    if dialect == "responses":
        given = value.get("input")
        if isinstance(given, str):
            return Prompt(f"<|user|>{given}<|assistant|>".encode())
        return chat_prompt(given, "input")
    return chat_prompt(value.get("messages"), "messages")


def completion_prompt(prompt: object) -> Prompt:
    """The prompt of /v1/completions: text or token ids."""
    if isinstance(prompt, str):
        return Prompt(prompt.encode())
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
        try:
            return prompt_of_ids(prompt)
        except ValueError as error:
            raise RefusalError(400, "BadRequestError", str(error), "prompt") from None
    raise RefusalError(400, "BadRequestError", "prompt must be a string or a list of token ids", "prompt")


def chat_prompt(messages: object, field: str) -> Prompt:
    """Messages through the mock's chat template."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise RefusalError(400, "BadRequestError", f"{field} must be a list with at least one message", field)
    parts = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RefusalError(400, "BadRequestError", f"{field}: each message needs a role", field)
        parts.append(f"<|{message['role']}|>{_flatten(message.get('content'))}")
    parts.append("<|assistant|>")
    return Prompt("".join(parts).encode())


def _flatten(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""
