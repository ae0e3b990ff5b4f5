"""Engines that answer at once: nginx with a canned chat completion, so that no engine is what is measured."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

from .client import BenchmarkError
from .contenders import ENGINE_KEY, Program, free_port
from .scenarios import MODEL, Target

# What the mock engine answers to such a request, key for key as vLLM does.
_COMPLETION = {
    "id": "chatcmpl-mock-000000000001",
    "object": "chat.completion",
    "created": 1767225600,
    "model": MODEL,
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "picture 수학 film 음악 book 그림 letter 영화 sentence 책 word 글 country 문장 ",
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                "reasoning": None,
            },
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
            "token_ids": None,
            "routed_experts": None,
        }
    ],
    "service_tier": None,
    "system_fingerprint": "vllm-0.32.0-mock",
    "usage": {
        "prompt_tokens": 45,
        "total_tokens": 59,
        "completion_tokens": 14,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    },
    "prompt_logprobs": None,
    "prompt_token_ids": None,
    "prompt_text": None,
    "kv_transfer_params": None,
    "ec_transfer_params": None,
    "metrics": None,
}
_MODELS = {
    "object": "list",
    "data": [{"id": MODEL, "object": "model", "created": 1767225600, "owned_by": "vllm", "root": MODEL}],
}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


COMPLETION = _json(_COMPLETION).encode()
"""The one answer, as bytes."""


def nginx_config(ports: list[int], folder: Path) -> str:
    """One process that plays an engine on each port: health for all, the rest for those with the engine key.

    Bodies of requests are read and dropped. The head's buffer takes a whole request, so that it is read at once.
    """
    servers = "\n".join(
        f"""\
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /health {{ return 200 ''; }}
        location = /v1/models {{ return 200 '{_json(_MODELS)}'; }}
        location = /v1/chat/completions {{
            if ($http_authorization != 'Bearer {ENGINE_KEY}') {{ return 401; }}
            return 200 '{COMPLETION.decode()}';
        }}
    }}"""
        for port in ports
    )
    # Distributions compile absolute paths in, which only root may use.
    temporary = "\n".join(
        f"    {kind}_temp_path '{folder}/nginx-{kind}';"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
daemon off;
master_process off;
pid '{folder}/nginx.pid';
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    default_type application/json;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    client_header_buffer_size 16k;
{temporary}
{servers}
}}
"""


def start_canned_engines(nginx: Path, count: int, cores: set[int], folder: Path) -> tuple[Program, list[int]]:
    """The engines' program and their ports."""
    ports = [free_port() for _ in range(count)]
    config = folder / "nginx.conf"
    config.write_text(nginx_config(ports, folder), encoding="utf-8")
    program = Program([str(nginx), "-c", str(config)], cores=cores, log=folder / "nginx.log")
    for port in ports:
        program.wait_answer(port, "/health")
    return program, ports


def check_answer(target: Target, body: bytes) -> None:
    """One request: raises BenchmarkError unless the router hands the canned answer on byte for byte."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{target.port}/v1/chat/completions",
        data=body,
        headers={"content-type": "application/json", "authorization": f"Bearer {target.key}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            kind, answered = answer.headers.get("content-type"), answer.read()
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        raise BenchmarkError(f"no answer to a single request: {error}") from error
    if answered != COMPLETION or kind != "application/json":
        raise BenchmarkError(f"not the engine's answer: {kind}, {answered[:300]!r}")
