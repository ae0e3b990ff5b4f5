"""What the server says of itself before the load: whether it answers, which models it serves, how it counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tri_serve.errors import ConnectionFailedError, UsageError
from tri_serve.load.wire.client import Client
from tri_serve.load.wire.preflight import fetch_json, find_model
from tri_serve.load.wire.wording import printable
from tri_serve.load.workload.items import Route
from tri_serve.load.workload.tokenizer import (
    Overhead,
    PromptTokens,
    Tokenizer,
    by_one_token,
    by_tokenize,
    load_tokenizer,
    measure_overhead,
)


@dataclass(frozen=True)
class Served:
    """A model behind a URL."""

    model: str
    context: int | None
    """Tokens of a prompt and its answer together, where the server says so."""
    counts: bool
    """Whether /tokenize answers."""
    overhead: Overhead | None
    version: str
    """Of the engine; empty where it does not say."""


def look_at(client: Client, wanted: str | None, tokenizer: Path | None = None) -> Served:
    """Ask the server; ``wanted``: a model, or None for the one that it serves.

    ``tokenizer`` is a tokenizer.json; without one the server's /tokenize counts, if it has it.
    Raises ConnectionFailedError if nothing answers or the key is refused, UsageError for a model that it lacks.
    """
    model = find_model(client, wanted)
    counts = _counts(client, model)
    overhead = _overhead(client, model, tokenizer, counts=counts)
    return Served(model, _context(client, model), counts, overhead, _version(client))


def tokenize(client: Client, model: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The answer of /tokenize. Raises ConnectionFailedError if it gives none."""
    value = fetch_json(client, "POST", "/tokenize", {"model": model, **body})
    return value if isinstance(value, dict) else {}


def _counts(client: Client, model: str) -> bool:
    """Whether the server counts tokens at all."""
    try:
        tokenize(client, model, {"prompt": "a", "add_special_tokens": False})
    except ConnectionFailedError:
        return False
    return True


def _overhead(client: Client, model: str, path: Path | None, *, counts: bool) -> Overhead | None:
    """What the chat template adds; None where neither the server nor a file can count."""
    if path is None and not counts:
        return None

    def ask(body: Mapping[str, Any]) -> Mapping[str, Any]:
        return tokenize(client, model, body)

    def post(route: Route, body: Mapping[str, Any]) -> Mapping[str, Any]:
        value = fetch_json(client, "POST", route, {"model": model, **body})
        return value if isinstance(value, dict) else {}

    counted: PromptTokens = by_tokenize(ask) if counts else by_one_token(post)
    tokenizer: Tokenizer = load_tokenizer(ask if path is None else path)
    try:
        return measure_overhead(counted, tokenizer)
    except (UsageError, ConnectionFailedError):  # a model without a chat template
        return None


def _context(client: Client, model: str) -> int | None:
    answer = fetch_json(client, "GET", "/v1/models")
    entries = answer.get("data") if isinstance(answer, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("id") == model:
            length = entry.get("max_model_len")
            return length if isinstance(length, int) else None
    return None


def _version(client: Client) -> str:
    try:
        answer = fetch_json(client, "GET", "/version")
    except ConnectionFailedError:
        return ""
    said = answer.get("version") if isinstance(answer, dict) else None
    return printable(said[:64]) if isinstance(said, str) else ""
