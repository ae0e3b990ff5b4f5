"""Counting tokens as the server counts them: by its tokenizer.json, or by asking the server itself."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from tri_serve.errors import MissingExtraError, UsageError
from tri_serve.load.regular import open_regular
from tri_serve.load.workload.items import Route

AskTokenize = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Posts a body (without ``model``) to the server's ``/tokenize`` and returns its answer, as vLLM 0.32 has it
(vllm/entrypoints/serve/tokenize): ``{"count": …, "max_model_len": …, "tokens": […]}``."""

PromptTokens = Callable[[Route, Mapping[str, Any]], int]
"""Tokens of the prompt that the server makes of a body (without ``model``)."""

_CACHED_TEXTS = 65_536


class Tokenizer(Protocol):
    """Counts."""

    @property
    def name(self) -> str:
        """What it is, for reports and for the workload's hash."""

    @property
    def exact(self) -> bool:
        """Whether its counts are the server's."""

    def count(self, text: str) -> int:
        """Tokens of a text alone, without special tokens."""


@dataclass(frozen=True)
class Overhead:
    """Tokens that the server adds to what is sent, by the form of the request."""

    prompt: int
    """To the prompt of ``/v1/completions``: a BOS token, or none."""
    user: int
    """By the chat template to one user message."""
    system_user: int
    """By the chat template to a system message and a user message together."""


class FileTokenizer:
    """A ``tokenizer.json``. Raises UsageError if it is none, MissingExtraError without the tokenizers library."""

    exact = True

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer as Library
        except ImportError as error:
            raise MissingExtraError("load", "counting tokens") from error
        try:
            with open_regular(path) as file:
                data = file.read()
            # Its errors are of no narrower kind: https://github.com/huggingface/tokenizers/issues/1052
            self._library = Library.from_buffer(data)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from error
        except Exception as error:
            raise UsageError(f"{path}: not a tokenizer.json: {error}") from error
        self._library.no_truncation()
        self._library.no_padding()
        self.name = f"{path.name} sha256:{hashlib.sha256(data).hexdigest()[:16]}"

    def count(self, text: str) -> int:
        return len(self._library.encode(text, add_special_tokens=False))


class ServerTokenizer:
    """The server's own ``/tokenize``: a request for each text that it has not seen."""

    exact = True
    name = "the server's /tokenize"

    def __init__(self, ask: AskTokenize) -> None:
        self._ask = ask
        self.count = lru_cache(_CACHED_TEXTS)(self._count)

    def _count(self, text: str) -> int:
        return _number(self._ask({"prompt": text, "add_special_tokens": False}), "count", "/tokenize")


class Guess:
    """Where no tokenizer can be had: words and characters, about as large vocabularies divide them."""

    exact = False
    name = "a guess by characters"
    _PIECES = re.compile(r" ?[A-Za-z]{1,6}| ?[가-힣]{1,2}| ?[ぁ-ヿ一-鿿]{1,2}| ?\d{1,3}| ?.", re.DOTALL)

    def count(self, text: str) -> int:
        return len(self._PIECES.findall(text))


def load_tokenizer(source: Path | AskTokenize | None) -> Tokenizer:
    """The tokenizer in a file or a checkpoint's folder, the server's, or for None a guess.

    Raises UsageError for a path without a tokenizer.json.
    """
    if source is None:
        return Guess()
    if not isinstance(source, Path):
        return ServerTokenizer(source)
    return FileTokenizer(source / "tokenizer.json" if source.is_dir() else source)


_PROBE = "a"


def measure_overhead(prompt_tokens: PromptTokens, tokenizer: Tokenizer) -> Overhead:
    """What the server adds to a request, from three requests of one token each.

    Raises whatever ``prompt_tokens`` raises.
    """
    alone = tokenizer.count(_PROBE)
    user = {"role": "user", "content": _PROBE}
    system_user = {"messages": [{"role": "system", "content": _PROBE}, user]}
    return Overhead(
        prompt=prompt_tokens("/v1/completions", {"prompt": _PROBE}) - alone,
        user=prompt_tokens("/v1/chat/completions", {"messages": [user]}) - alone,
        system_user=prompt_tokens("/v1/chat/completions", system_user) - 2 * alone,
    )


def by_tokenize(ask: AskTokenize) -> PromptTokens:
    """Prompt tokens as the server's ``/tokenize`` counts them. Its answer without a count raises UsageError."""
    return lambda route, body: _number(ask(body), "count", "/tokenize")


def by_one_token(post: Callable[[Route, Mapping[str, Any]], Mapping[str, Any]]) -> PromptTokens:
    """Prompt tokens as an answer of one token reports them, for a server (or gateway) without ``/tokenize``.

    ``post`` sends a body (without ``model``) to a route. An answer without usage raises UsageError.
    """

    def count(route: Route, body: Mapping[str, Any]) -> int:
        usage = post(route, {**body, "max_tokens": 1, "temperature": 0.0}).get("usage")
        return _number(usage if isinstance(usage, Mapping) else {}, "prompt_tokens", route)

    return count


def _number(answer: Mapping[str, Any], key: str, route: str) -> int:
    value = answer.get(key)
    if not isinstance(value, int):
        raise UsageError(f"{route}: the answer has no {key}")
    return value
