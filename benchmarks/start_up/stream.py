"""One stream of 64 tokens: the proof that an engine serves."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable

TOKENS = 64
PATH = "/v1/completions"
_SILENCE = 60.0


def stream_64(host: str, port: int, model: str, key: str | None = None) -> bool:
    """Read a stream of ``TOKENS`` tokens to its end; False if there is no answer, or not all of one."""
    body = {
        "model": model,
        "prompt": "긴 이야기를 들려주세요.",
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    connection = http.client.HTTPConnection(host, port, timeout=_SILENCE)
    try:
        connection.request("POST", PATH, json.dumps(body).encode(), headers)
        response = connection.getresponse()
        text = response.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return response.status == 200 and tokens_in(text) == TOKENS and b"data: [DONE]" in text


def tokens_in(stream: bytes) -> int:
    """Completion tokens as a stream's usage event counts them; 0 if it has none."""
    count = 0
    for line in stream.splitlines():
        if line.startswith(b"data: {"):
            usage = json.loads(line[len(b"data: ") :]).get("usage")
            count = usage["completion_tokens"] if usage else count
    return count


def answers(host: str, port: int, path: str) -> bytes | None:
    """The body of a GET that is answered with 200; None otherwise."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return text if response.status == 200 else None


def wait_for(condition: Callable[[], bool], deadline: float, every: float) -> bool:
    """Whether ``condition`` came true before ``deadline`` (monotonic)."""
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
