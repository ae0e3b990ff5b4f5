"""Routes, dialects, keys and counters, as an engine's clients meet them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

from .conftest import KEY, read_all, read_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Running


def openai_client(engine: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{engine.port}/v1", api_key=KEY, max_retries=0)


def test_the_openai_client_reads_the_same_answer_streamed_and_whole(engine: Running) -> None:
    with openai_client(engine) as client:
        messages: Any = [{"role": "user", "content": "안녕하세요"}]
        whole = client.chat.completions.create(model="tri-mock", messages=messages)
        stream = client.chat.completions.create(
            model="tri-mock", messages=messages, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 16
    assert whole.choices[0].finish_reason == "stop"


def test_the_openai_client_reads_responses(engine: Running) -> None:
    with openai_client(engine) as client:
        whole = client.responses.create(model="tri-mock", input="hello")
        with client.responses.stream(model="tri-mock", input="hello") as stream:
            types = [event.type for event in stream]
            final = stream.get_final_response()
    assert final.output_text == whole.output_text
    assert types[:2] == ["response.created", "response.in_progress"]
    assert types[-1] == "response.completed"


def test_the_anthropic_client_reads_messages(engine: Running) -> None:
    base = f"http://127.0.0.1:{engine.port}"
    with anthropic.Anthropic(base_url=base, auth_token=KEY, api_key=None, max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "hello"}]
        whole = client.messages.create(model="tri-mock", max_tokens=5, messages=messages)
        with client.messages.stream(model="tri-mock", max_tokens=5, messages=messages) as stream:
            text = stream.get_final_text()
            final = stream.get_final_message()
    assert whole.content[0].type == "text"
    assert text == whole.content[0].text
    assert final.stop_reason == whole.stop_reason == "max_tokens"
    assert final.usage.output_tokens == 5


def test_ids_of_a_stream_continue_it_exactly(engine: Running) -> None:
    def stream_ids(path: str, value: dict[str, Any]) -> tuple[list[int], list[int]]:
        with engine.ask({**value, "stream": True, "return_token_ids": True}, path) as connection:
            data = read_until(connection, b"[DONE]")
        chunks = [json.loads(line[6:]) for line in data.split(b"\n") if line.startswith(b'data: {"')]
        first = chunks[0]
        prompt = first.get("prompt_token_ids") or first["choices"][0]["prompt_token_ids"]
        return prompt, [token for chunk in chunks for token in chunk["choices"][0].get("token_ids") or ()]

    message = {"role": "user", "content": "이야기 하나"}
    prompt, ids = stream_ids("/v1/chat/completions", {"messages": [message], "max_tokens": 20})
    _, rest = stream_ids("/v1/completions", {"prompt": prompt + ids[:8], "max_tokens": 12})
    assert ids[:8] + rest == ids


@pytest.mark.parametrize("path", ["/v1/models", "/v1/nowhere"])
def test_v1_wants_the_engine_key(engine: Running, path: str) -> None:
    with engine.connect() as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nauthorization: Bearer no\r\nconnection: close\r\n\r\n".encode()
        )
        assert read_all(connection).startswith(b"HTTP/1.1 401 ")


def test_health_wants_no_key(engine: Running) -> None:
    with engine.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nconnection: close\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def test_admin_routes_answer_danger_and_are_counted(engine: Running) -> None:
    with engine.ask({}, "/sleep", headers="connection: close\r\n") as connection:
        assert read_all(connection).endswith(b"danger")
    assert engine.get("/mock/stats")["paths"]["POST /sleep"] == 1


def test_stats_say_whose_authorization_came_and_never_its_value(engine: Running) -> None:
    with engine.chat() as connection:
        read_until(connection, b"[DONE]")
    stats = engine.get("/mock/stats")
    assert stats["last_authorization"] == "engine-key"
    assert "authorization" in stats["last_headers"]
    assert KEY not in json.dumps(stats)


def test_another_authorization_is_seen_where_no_key_is_wanted(start_engine: Callable[..., Running]) -> None:
    engine = start_engine(key=None)
    with engine.chat() as connection:
        read_until(connection, b"[DONE]")
    assert engine.get("/mock/stats")["last_authorization"] == "other"


@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnect_aborts_the_request_at_once(engine: Running, stream: bool) -> None:
    connection = engine.chat("itl-ms=5000", stream=stream)
    engine.stats_when(lambda stats: stats["running"] == 1)
    left = time.monotonic()
    connection.close()
    stats = engine.stats_when(lambda stats: stats["aborted"] == 1)
    assert (stats["running"], stats["aborted"]) == (0, 1)
    # The stats' clock is the machine's, so it can be held against ours.
    assert 0 <= stats["aborts"][0]["at"] - left < 2.0


def test_an_unknown_model_is_404_as_vllm_says_it(engine: Running) -> None:
    with engine.chat(model="gpt-4") as connection:
        data = read_until(connection, b"}}")
    assert data.startswith(b"HTTP/1.1 404 ")
    assert json.loads(data.partition(b"\r\n\r\n")[2])["error"]["type"] == "NotFoundError"


def test_tokenize_and_detokenize_are_inverse(engine: Running) -> None:
    with engine.ask({"prompt": "안녕 hello"}, "/tokenize", headers="connection: close\r\n") as connection:
        tokens = json.loads(read_all(connection).partition(b"\r\n\r\n")[2])
    with engine.ask(
        {"tokens": tokens["tokens"]}, "/detokenize", headers="connection: close\r\n"
    ) as connection:
        assert json.loads(read_all(connection).partition(b"\r\n\r\n")[2]) == {"prompt": "안녕 hello"}
    assert tokens["count"] == len(tokens["tokens"])


def test_metrics_move_while_a_stream_runs(engine: Running) -> None:
    def scrape() -> dict[str, float]:
        with engine.connect() as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nconnection: close\r\n\r\n")
            lines = read_all(connection).partition(b"\r\n\r\n")[2].decode().splitlines()
        return {line.partition("{")[0]: float(line.split()[-1]) for line in lines if line.startswith("vllm:")}

    before = scrape()
    with engine.chat("itl-ms=200") as connection:
        read_until(connection, b"\n\n")
        during = scrape()
    assert during["vllm:num_requests_running"] == 1
    assert during["vllm:iteration_tokens_total_count"] > before["vllm:iteration_tokens_total_count"]


def test_pipelined_requests_are_answered_in_order(engine: Running) -> None:
    one = engine.request({"prompt": "a", "max_tokens": 1, "mock": "ttft-ms=50"}, "/v1/completions")
    two = engine.request({"prompt": "a", "max_tokens": 2}, "/v1/completions")
    with engine.connect() as connection:
        connection.sendall(one + two)
        data = read_until(connection, b'"completion_tokens":2')
    assert data.index(b'"completion_tokens":1') < data.index(b'"completion_tokens":2')


def test_a_thousand_pipelined_requests_behind_a_slow_one_are_all_answered(engine: Running) -> None:
    slow = engine.request({"prompt": "a", "max_tokens": 1, "mock": "ttft-ms=100"}, "/v1/completions")
    with engine.connect() as connection:
        connection.sendall(slow + b"GET /health HTTP/1.1\r\n\r\n" * 999 + b"GET /version HTTP/1.1\r\n\r\n")
        assert read_until(connection, b'"version"').count(b"HTTP/1.1 200 OK") == 1001


def test_a_taken_port_is_one_line_and_its_exit_code(engine: Running) -> None:
    argv = [sys.executable, "-m", "tri_serve.mock", "--port", str(engine.port)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 14
    assert str(engine.port) in done.stderr
    assert "Traceback" not in done.stderr
