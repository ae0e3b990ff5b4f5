"""Talking to an OpenAI-compatible server: one chat request, its answer as it comes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests

from tri_serve.errors import ConnectionFailedError

Message = Mapping[str, str]


@dataclass(frozen=True)
class ChatServer:
    """Where to ask, and with which key. ``url`` may or may not end in /v1."""

    url: str
    key: str | None = None
    connect_timeout: float = 5.0
    silence: float = 600.0
    """Seconds that the server may be silent: a long prompt on a CPU takes minutes."""

    @property
    def base(self) -> str:
        """The URL with its /v1."""
        url = self.url.rstrip("/")
        return url if url.endswith("/v1") else f"{url}/v1"

    def first_model(self) -> str:
        """The name of the first model that the server offers."""
        with self._request("GET", "/models") as response:
            models = _json(response).get("data") or []
        if not models:
            raise ConnectionFailedError(f"{self.base} offers no model", hint="name one with --model")
        return str(models[0]["id"])

    def chat(self, body: Mapping[str, Any], messages: Sequence[Message]) -> Iterator[str]:
        """The answer's text, piece by piece; whole at once if ``body`` says ``stream: false``.

        Raises ConnectionFailedError in one line, also for an error in the middle of a stream.
        """
        payload = {"stream": True, **body, "messages": list(messages)}
        with self._request("POST", "/chat/completions", payload) as response:
            if not payload["stream"]:
                message = (_json(response).get("choices") or [{}])[0].get("message") or {}
                yield message.get("content") or ""
                return
            yield from _deltas(response)

    def _request(self, method: str, path: str, body: object = None) -> requests.Response:
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            response = requests.request(
                method,
                self.base + path,
                json=body,
                headers=headers,
                stream=True,
                timeout=(self.connect_timeout, self.silence),
            )
        except requests.exceptions.RequestException as error:
            raise ConnectionFailedError(
                f"{self.base} does not answer: {_reason(error)}", hint="tri-serve status shows what runs"
            ) from error
        if response.status_code >= 400:
            with response:
                raise _refusal(self.base, response)
        return response


def _reason(error: requests.exceptions.RequestException) -> str:
    """The innermost words: requests wraps them several times."""
    inner: BaseException = error
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__ or inner
    return getattr(inner, "strerror", None) or str(inner).splitlines()[0] or type(inner).__name__


def _refusal(base: str, response: requests.Response) -> ConnectionFailedError:
    try:
        error = response.json().get("error")
        words = error.get("message") if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError):
        words = response.text.strip()[:200]
    hint = None
    if response.status_code == 401:
        hint = "put the client key into the variable TRI_SERVE_API_KEY"
    return ConnectionFailedError(
        f"{base} refused ({response.status_code}): {' '.join(str(words or response.reason).split())}",
        status=response.status_code,
        hint=hint,
    )


def _json(response: requests.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except (ValueError, requests.exceptions.RequestException) as error:
        raise ConnectionFailedError(f"{response.url} did not answer with JSON") from error
    if not isinstance(answer, dict):
        raise ConnectionFailedError(f"{response.url} did not answer with a JSON object")
    return answer


def _deltas(response: requests.Response) -> Iterator[str]:
    """Text of each event. Bytes are cut at line ends first and decoded after: no character is cut."""
    finished = False
    try:
        for line in _lines(response.iter_content(chunk_size=None)):
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            event = json.loads(data)
            if error := event.get("error"):
                words = error.get("message") if isinstance(error, dict) else error
                raise ConnectionFailedError(f"the answer broke off: {words}")
            for choice in event.get("choices", ())[:1]:
                finished = finished or choice.get("finish_reason") is not None
                if text := (choice.get("delta") or {}).get("content"):
                    yield text
    except requests.exceptions.RequestException as error:
        raise ConnectionFailedError(f"the answer broke off: {_reason(error)}") from error
    except (ValueError, AttributeError) as error:
        raise ConnectionFailedError(f"{response.url} sent an event that is not OpenAI's: {error}") from error
    if not finished:
        raise ConnectionFailedError("the answer broke off: the connection ended early")


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    held = b""
    for chunk in chunks:
        *lines, held = (held + chunk).split(b"\n")
        yield from (line.rstrip(b"\r") for line in lines)
    if held:
        yield held
