"""The routes of the mock engine, as vLLM 0.32 serves them, and /mock/* for tests."""

from __future__ import annotations

import hashlib
import hmac
import random
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from itertools import chain
from typing import Any

import orjson

from tri_serve.errors import UsageError

from .ask import Ask, RefusalError, chat_prompt, completion_prompt, parse_json, read_ask
from .connection import Connection, Request
from .faults import parse_fault
from .heads import Heads
from .pacer import Pacer
from .playing import Play
from .rendering import error_object, render_stream, render_whole
from .script import Act, Step, stream_script, whole_script
from .settings import MockSettings
from .stats import Stats
from .text import detokenize
from .timings import RequestTimes

_DIALECTS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/messages": "messages",
    "/v1/responses": "responses",
}
_ADMIN = (
    "/sleep",
    "/wake_up",
    "/reset_prefix_cache",
    "/collective_rpc",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/load_lora_adapter",
    "/inference/v1/abort_requests",
)
_OPEN = frozenset({"/health", "/ping", "/version", "/metrics", "/mock/stats", "/mock/fault"})
"""Routes that want no key: probes and scrapers have none."""
_JSON = b"application/json"
_DRIP_GAP = 0.01


class MockEngine:
    """Answers requests. Everything it knows is given: settings, stats, pacer."""

    def __init__(self, settings: MockSettings, pacer: Pacer, stats: Stats) -> None:
        self._settings = settings
        self._pacer = pacer
        self._stats = stats
        self._number = 0
        self._standing = parse_fault(settings.fault)
        self._standing_left: int | None = None
        self._key_digest = hashlib.sha256(settings.api_key.encode()).digest() if settings.api_key else None
        self._heads = Heads()
        self._routes: dict[tuple[str, str], Callable[[Connection, Request], None]] = {
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("GET", "/version"): lambda c, r: self._json(c, 200, {"version": "0.32.0"}),
            ("GET", "/v1/models"): self._models,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/mock/stats"): lambda c, r: self._json(c, 200, stats.summary()),
            ("POST", "/mock/fault"): self._set_fault,
            **{("POST", path): self._generate for path in _DIALECTS},
            **{("POST", path): self._danger for path in _ADMIN},
        }

    def connection(self) -> Connection:
        """A protocol for one accepted connection."""
        return Connection(self._serve, self._pacer, self._stats)

    def _serve(self, connection: Connection, request: Request) -> None:
        path = request.path
        self._stats.paths[f"{request.method} {path}"] += 1
        try:
            if path not in _OPEN and not self._authorized(request):
                self._json(connection, 401, {"error": "Unauthorized"})
                return
            route = self._routes.get((request.method, path))
            if route is None:
                known = any(known_path == path for _, known_path in self._routes)
                self._json(
                    connection,
                    405 if known else 404,
                    {"detail": "Method Not Allowed" if known else "Not Found"},
                )
                return
            route(connection, request)
        except RefusalError as refusal:
            self._refuse(connection, path, refusal)

    # Generation.

    def _generate(self, connection: Connection, request: Request) -> None:
        stats = self._stats
        stats.requests += 1
        stats.last_headers = tuple(request.headers)
        stats.last_authorization = self._authorization(request)
        stats.other_authorizations += stats.last_authorization == "other"
        arrival = time.monotonic()
        self._number += 1
        header_fault = request.headers.get("x-mock-fault", "")
        ask = read_ask(
            _DIALECTS[request.path],
            parse_json(request.body),
            header_fault,
            self._standing,
            self._settings,
            number=self._number,
            created=int(time.time()),
        )
        self._use_up()
        if ask.fault.status is not None:
            phrase = HTTPStatus(ask.fault.status).phrase
            kind = "InternalServerError" if ask.fault.status == 500 else phrase.replace(" ", "") + "Error"
            raise RefusalError(ask.fault.status, kind, f"mock fault: {phrase}")
        play = Play(connection, self._script(connection, ask, arrival), stats, ask.request_id, arrival)
        connection.play = play
        stats.prompt_tokens += ask.prompt.count
        play.begin()

    def _script(self, connection: Connection, ask: Ask, arrival: float) -> Iterator[Step]:
        fault = ask.fault
        timing = fault.timing(self._settings.timing)
        if fault.reset_before:
            return iter([(timing.ttft, Act.RESET)])
        if fault.stall_before:
            return iter([(timing.ttft, Act.STALL)])
        if fault.garbage:
            return iter(
                [(timing.ttft, b"\x15\x03\x01\x00\x02\x02\x16 this is no HTTP\r\n"), (timing.ttft, Act.CLOSE)]
            )
        if not ask.stream:
            body = render_whole(ask)
            claimed = len(body) + (fault.lie_length or 0)
            head = self._heads.sized(200, _JSON, max(0, claimed), keep_alive=connection.keep_alive)
            self._stats.generation_tokens += ask.length
            self._stats.iterations += ask.length
            script = whole_script(ask, b"" if fault.slow_head else head, body, timing)
            return chain(_dripped(head), script) if fault.slow_head else script
        head = self._heads.chunked(b"text/event-stream; charset=utf-8", keep_alive=connection.keep_alive)
        seed = self._settings.seed * 1_000_003 + self._number
        rng = random.Random(seed) if timing.jitter else None  # noqa: S311 - lateness, not secrets
        times = RequestTimes(self._stats, arrival, ask.length)
        body_script = stream_script(ask, render_stream(ask), timing, rng, times.token)
        # uvicorn sends the head as soon as the request is accepted, long before the first token.
        return chain(_dripped(head) if fault.slow_head else [(0.0, head)], body_script)

    def _use_up(self) -> None:
        if self._standing_left is not None:
            self._standing_left -= 1
            if self._standing_left <= 0:
                self._standing = parse_fault(self._settings.fault)
                self._standing_left = None

    # The other routes.

    def _health(self, connection: Connection, request: Request) -> None:
        self._answer(connection, 200, b"", b"")

    def _models(self, connection: Connection, request: Request) -> None:
        card = {
            "id": self._settings.model,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "vllm",
            "root": self._settings.model,
            "parent": None,
            "max_model_len": self._settings.max_model_len,
            "permission": [],
        }
        self._json(connection, 200, {"object": "list", "data": [card]})

    def _tokenize(self, connection: Connection, request: Request) -> None:
        value = parse_json(request.body)
        if "messages" in value:
            prompt = chat_prompt(value["messages"], "messages")
        else:
            prompt = completion_prompt(value.get("prompt"))
        answer = {
            "count": prompt.count,
            "max_model_len": self._settings.max_model_len,
            "tokens": prompt.ids(),
            "token_strs": None,
        }
        self._json(connection, 200, answer)

    def _detokenize(self, connection: Connection, request: Request) -> None:
        tokens = parse_json(request.body).get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise RefusalError(400, "BadRequestError", "tokens must be a list of token ids", "tokens")
        try:
            text = detokenize(tokens)
        except ValueError as error:
            raise RefusalError(400, "BadRequestError", str(error), "tokens") from None
        self._json(connection, 200, {"prompt": text.decode(errors="replace")})

    def _metrics(self, connection: Connection, request: Request) -> None:
        body = self._stats.metrics(self._settings.model).encode()
        self._answer(connection, 200, b"text/plain; version=1.0.0; charset=utf-8", body)

    def _danger(self, connection: Connection, request: Request) -> None:
        self._answer(connection, 200, b"text/plain; charset=utf-8", b"danger")

    def _set_fault(self, connection: Connection, request: Request) -> None:
        value = parse_json(request.body)
        times = value.get("times")
        try:
            self._standing = parse_fault(str(value.get("fault", "")))
        except UsageError as error:
            raise RefusalError(400, "BadRequestError", error.message, "fault") from None
        self._standing_left = times if isinstance(times, int) else None
        self._json(connection, 200, {"fault": value.get("fault", ""), "times": self._standing_left})

    # Keys.

    def _authorization(self, request: Request) -> str:
        header = request.headers.get("authorization")
        if header is None:
            return "absent"
        scheme, _, key = header.partition(" ")
        if self._key_digest is None or scheme.lower() != "bearer":
            return "other"
        digest = hashlib.sha256(key.encode("latin-1")).digest()
        return "engine-key" if hmac.compare_digest(digest, self._key_digest) else "other"

    def _authorized(self, request: Request) -> bool:
        return self._key_digest is None or self._authorization(request) == "engine-key"

    # Writing.

    def _refuse(self, connection: Connection, path: str, refusal: RefusalError) -> None:
        self._stats.refused += 1
        if path == "/v1/messages":
            error = {"type": refusal.kind, "message": refusal.message}
            self._json(connection, refusal.status, {"type": "error", "error": error})
            return
        body = error_object(refusal.status, refusal.kind, refusal.message, refusal.param)
        self._answer(connection, refusal.status, _JSON, body)

    def _json(self, connection: Connection, status: int, value: dict[str, Any]) -> None:
        self._answer(connection, status, _JSON, orjson.dumps(value))

    def _answer(self, connection: Connection, status: int, content_type: bytes, body: bytes) -> None:
        head = self._heads.sized(status, content_type, len(body), keep_alive=connection.keep_alive)
        self._write(connection, head + body)

    def _write(self, connection: Connection, data: bytes) -> None:
        if connection.transport is not None:
            connection.transport.write(data)
        connection.finish()


def _dripped(head: bytes) -> Iterator[Step]:
    for index in range(len(head)):
        yield (index * _DRIP_GAP, head[index : index + 1])
