"""Engines that die, stall, lie and talk nonsense: what the client sees of it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import requests

from .conftest import MODEL, Gateway, Mock, chat, events_of, wait_until


@pytest.fixture
def flawed(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> tuple[Gateway, Mock, Mock]:
    """One engine for faults, one good one."""
    bad, good = make_mock(), make_mock()
    return make_gateway(bad, good), bad, good


BEFORE = ["reset-before", "garbage", "status=500", "status=503", "reset-after=0", "close-after=0"]


@pytest.mark.parametrize("fault", BEFORE)
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_first_byte_is_answered_by_another_replica(
    flawed: tuple[Gateway, Mock, Mock], fault: str, stream: bool
) -> None:
    gateway, bad, good = flawed
    bad.fault(fault)
    for _ in range(6):
        answer = chat(gateway, stream=stream)
        assert answer.status_code == 200
        if stream:
            assert events_of(answer)[-1] == b"data: [DONE]"
        else:
            assert answer.json()["choices"]
    assert good.stats["requests"] == 6
    assert bad.stats["paths"]["POST /v1/chat/completions"] >= 1
    assert gateway.metric("tri_gateway_retries_total") >= 1


def test_an_answer_that_is_cut_short_is_asked_for_again(flawed: tuple[Gateway, Mock, Mock]) -> None:
    gateway, bad, _ = flawed
    bad.fault("lie-length=10")
    bad.fault("lie-length=10,close-after=1")
    for _ in range(4):
        assert chat(gateway).json()["choices"]


@pytest.mark.parametrize("fault", ["reset-after=3", "close-after=3", "cut-inside=3", "bad-chunk=3"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"])
def test_a_stream_that_breaks_ends_with_an_error_event_and_never_in_mid_event(
    pair: tuple[Gateway, Mock, Mock], path: str, fault: str
) -> None:
    gateway, *_ = pair
    prompts = {"/v1/completions": {"prompt": "x"}, "/v1/responses": {"input": "x", "max_output_tokens": 20}}
    prompt = prompts.get(path, {"messages": [{"role": "user", "content": "x"}]})
    body = {"model": MODEL, "stream": True, "max_tokens": 20, "mock": fault, **prompt}
    answer = requests.post(gateway.url + path, json=body, timeout=10)
    events = events_of(answer)
    *whole, last = events
    assert len(whole) >= 2
    for event in whole:
        data = event.rpartition(b"data: ")[2]
        assert json.loads(data)
    assert "error" in json.loads(last.rpartition(b"data: ")[2]) or b'"type": "error"' in last
    named = path in ("/v1/messages", "/v1/responses")
    assert last.startswith(b"event: error\n") is named
    if path == "/v1/responses":
        assert json.loads(last.rpartition(b"data: ")[2])["sequence_number"] == len(whole)


def test_a_broken_stream_is_counted(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock())
    events_of(chat(gateway, stream=True, fault="reset-after=3", tokens=20))
    assert gateway.metric("tri_gateway_stream_failures_total") == 1
    assert gateway.metric("tri_gateway_engine_failures_total", replica="replica-0") == 1
    events_of(chat(gateway, stream=True, fault="error-event=2", tokens=20))
    assert gateway.metric("tri_gateway_engine_error_events_total") == 1


def test_an_openai_client_sees_a_broken_stream_as_an_error(pair: tuple[Gateway, Mock, Mock]) -> None:
    import openai

    gateway, *_ = pair
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
    with client, pytest.raises(openai.APIError, match="incomplete"):
        for _ in client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "x"}],
            stream=True,
            max_tokens=20,
            extra_body={"mock": "reset-after=3"},
        ):
            pass


def test_with_no_replica_left_the_client_is_told_that_retrying_is_safe(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    mock = make_mock()
    gateway = make_gateway(mock, timeouts={"no_replica": 0})
    answer = chat(gateway, fault="reset-before")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert answer.json()["error"]["code"] == "engine_failed"
    mock.kill()
    wait_until(lambda: not gateway.is_ready(), what="the gateway not ready")
    assert chat(gateway).json()["error"]["code"] == "no_ready_replica"


def test_a_lone_replicas_500_is_passed_on(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock())
    assert chat(gateway, fault="status=500").status_code == 500
    assert chat(gateway, fault="status=429").status_code == 429


def test_silence_before_and_in_a_stream_has_an_end(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    mock = make_mock()
    gateway = make_gateway(mock, timeouts={"first_byte": 1.0, "silence": 1.0})
    answer = chat(gateway, fault="stall-before")
    assert answer.status_code == 504
    last = events_of(chat(gateway, stream=True, fault="stall-after=3", tokens=20))[-1]
    assert b"sent nothing for 1 s" in last
    wait_until(lambda: mock.stats["running"] == 0, what="the engine's requests to end")
    assert mock.stats["aborted"] == 2


def test_an_idle_connection_that_the_engine_closed_costs_no_request(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    mock = make_mock()
    gateway = make_gateway(mock)
    for _ in range(3):
        assert chat(gateway).status_code == 200
        port = mock.port
        mock.kill()
        replacement = make_mock(port=port)
        wait_until(gateway.is_ready, what="the gateway ready again")
        mock = replacement
    assert chat(gateway).status_code == 200


def test_a_killed_replica_costs_no_request_that_is_not_a_stream(flawed: tuple[Gateway, Mock, Mock]) -> None:
    gateway, bad, _ = flawed
    statuses = []
    for number in range(40):
        if number == 10:
            bad.kill()
        statuses.append(chat(gateway).status_code)
    assert set(statuses) == {200}
    wait_until(lambda: not gateway.status["replicas"][0]["healthy"], what="the roster to notice")


def test_replicas_come_and_go_by_the_roster(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway()
    assert not gateway.is_ready()
    assert requests.get(f"{gateway.url}/health", timeout=5).status_code == 200
    first, second = make_mock("--itl-ms", "30"), make_mock()
    gateway.put_roster(first)
    gateway.wait_ready()
    running = chat(gateway, stream=True, tokens=40)
    wait_until(lambda: first.stats["running"] == 1)
    gateway.put_roster(second)
    wait_until(lambda: gateway.status["replicas"][0]["healthy"])
    for _ in range(5):
        assert chat(gateway).status_code == 200
    assert second.stats["requests"] == 5
    assert events_of(running)[-1] == b"data: [DONE]"


def test_a_roster_that_is_none_is_refused_and_changes_nothing(pair: tuple[Gateway, Mock, Mock]) -> None:
    gateway, *_ = pair
    address = {"name": "a", "host": "127.0.0.1", "port": 1}
    two_lines = {**address, "name": "a\r\nx-more: 1"}
    for document in (
        [],
        {},
        {"replicas": [{"name": "a"}]},
        {"replicas": [address, address]},
        {"replicas": [two_lines]},
    ):
        assert gateway.admin("PUT", "/roster", document)[0] == 400
    assert gateway.admin("GET", "/nope")[0] == 404
    assert len(gateway.status["replicas"]) == 2
