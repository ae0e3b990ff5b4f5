"""What clients get is what engines send; what engines get is what clients sent, less what is not theirs."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from .conftest import MODEL, Gateway, Mock, chat, events_of, wait_until

BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "안녕 👋"}], "max_tokens": 12},
    "/v1/completions": {"prompt": "오늘", "max_tokens": 12},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 12},
    "/v1/responses": {"input": "hi", "max_output_tokens": 12},
}


def normalised(body: bytes) -> str:
    text = body.decode()
    text = re.sub(r'"(created|created_at|completed_at)": ?\d+(\.\d+)?', '"created":0', text)
    return re.sub(r"(chatcmpl-|cmpl-|resp_|msg_|mock-|rs_|item_)[A-Za-z0-9_-]+", "ID", text)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("fault", ["", "split", "coalesce=3", "no-done"])
def test_an_answer_is_what_the_engine_itself_sends(
    pair: tuple[Gateway, Mock, Mock], path: str, stream: bool, fault: str
) -> None:
    gateway, mock, _ = pair
    body = {"model": MODEL, "stream": stream, **BODIES[path], **({"mock": fault} if fault else {})}
    headers = {"x-request-id": "same"}
    direct = requests.post(f"http://127.0.0.1:{mock.port}{path}", json=body, headers=headers, timeout=10)
    routed = requests.post(gateway.url + path, json=body, headers=headers, timeout=10)
    assert routed.status_code == direct.status_code == 200
    assert normalised(routed.content) == normalised(direct.content)
    assert routed.headers["content-type"] == direct.headers["content-type"]
    assert routed.headers["x-request-id"] == "same"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_names_the_replica_that_gave_it_and_a_refusal_names_none(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway], *, stream: bool
) -> None:
    mocks = [make_mock(), make_mock()]
    gateway = make_gateway(*mocks)
    body = {"model": MODEL, "stream": stream, "prompt": "hi", "max_tokens": 2}
    named = [
        requests.post(f"{gateway.url}/v1/completions", json=body, timeout=10).headers["x-tri-replica"]
        for _ in range(8)
    ]
    asked = sorted(mock.stats["requests"] for mock in mocks)
    assert sorted(named.count(name) for name in set(named)) == [count for count in asked if count]
    refused = requests.post(f"{gateway.url}/v1/nowhere", json=body, timeout=10)
    assert (refused.status_code, "x-tri-replica" in refused.headers) == (404, False)


@pytest.mark.parametrize("path", ["/v1/models", "/tokenize", "/detokenize"])
def test_the_other_routes_pass_too(pair: tuple[Gateway, Mock, Mock], path: str) -> None:
    gateway, mock, _ = pair
    bodies = {
        "/tokenize": {"model": MODEL, "prompt": "hi"},
        "/detokenize": {"model": MODEL, "tokens": [5, 6]},
    }
    for base in (gateway.url, f"http://127.0.0.1:{mock.port}"):
        if path == "/v1/models":
            answer = requests.get(base + path, timeout=10)
            assert answer.json()["data"][0]["id"] == MODEL
        else:
            answer = requests.post(base + path, json=bodies[path], timeout=10)
        assert answer.status_code == 200


def test_an_engines_own_refusal_is_passed_on(pair: tuple[Gateway, Mock, Mock]) -> None:
    gateway, mock, _ = pair
    body = {"model": MODEL, "messages": [{"role": "user", "content": "too long " * 9000}]}
    direct = requests.post(f"http://127.0.0.1:{mock.port}/v1/chat/completions", json=body, timeout=10)
    routed = requests.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=10)
    assert direct.status_code == routed.status_code == 400
    assert routed.json() == direct.json()


def test_stateful_responses_are_refused(pair: tuple[Gateway, Mock, Mock]) -> None:
    gateway, *_ = pair
    for extra in ({"previous_response_id": "resp_1"}, {"background": True}, {"conversation": "c"}):
        answer = requests.post(
            f"{gateway.url}/v1/responses", json={"model": MODEL, "input": "hi", **extra}, timeout=10
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] in extra


def test_errors_on_the_messages_route_are_anthropics(pair: tuple[Gateway, Mock, Mock]) -> None:
    gateway, *_ = pair
    answer = requests.post(f"{gateway.url}/v1/messages", json={"model": "nope", "max_tokens": 1}, timeout=10)
    assert answer.status_code == 404
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "not_found_error"


def test_the_clients_key_never_reaches_an_engine_and_the_engines_key_does(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    mock = make_mock(key="engine-secret")
    gateway = make_gateway(mock, client_key="sk-client", engine_key="engine-secret")
    url = f"{gateway.url}/v1/chat/completions"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}

    def ask(**headers: str) -> requests.Response:
        return requests.post(url, json=body, headers=headers, timeout=10)

    assert ask().status_code == 401
    assert ask().json()["error"]["code"] == "missing_api_key"
    wrong = ask(authorization="Bearer sk-wrong")
    assert wrong.status_code == 401
    assert wrong.json()["error"]["code"] == "invalid_api_key"
    assert ask(authorization="Basic sk-client").status_code == 401
    assert mock.stats["requests"] == 0
    assert ask(authorization="Bearer sk-client", cookie="a=b", **{"x-custom": "1"}).status_code == 200
    assert ask(**{"x-api-key": "sk-client"}).status_code == 200
    stats = mock.stats
    assert stats["last_authorization"] == "engine-key"
    assert stats["other_authorizations"] == 0
    assert set(stats["last_headers"]) == {
        "host",
        "authorization",
        "content-type",
        "content-length",
        "x-request-id",
    }
    assert requests.get(f"{gateway.url}/health", timeout=5).status_code == 200
    assert requests.get(f"{gateway.url}/v1/models", timeout=5).status_code == 401


def test_a_connection_whose_key_was_good_does_not_let_another_key_in(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock(), client_key="sk-client")
    with requests.Session() as session:
        for key, status in (("sk-client", 200), ("sk-client2", 401), ("sk-client", 200), ("", 401)):
            answer = session.get(
                f"{gateway.url}/v1/models", headers={"authorization": f"Bearer {key}"}, timeout=5
            )
            assert answer.status_code == status


def test_an_engine_that_refuses_the_gateways_key_is_no_401_for_the_client(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock(key="right"), engine_key="wrong", timeouts={"no_replica": 0})
    assert chat(gateway).status_code == 503


def test_both_replicas_serve(pair: tuple[Gateway, Mock, Mock]) -> None:
    gateway, *mocks = pair
    before = [mock.stats["requests"] for mock in mocks]
    for _ in range(20):
        assert chat(gateway).status_code == 200
    grown = [mock.stats["requests"] - old for mock, old in zip(mocks, before, strict=True)]
    assert grown == [10, 10]


def test_a_busy_replica_is_left_alone(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    mocks = [make_mock("--itl-ms", "100") for _ in range(2)]
    gateway = make_gateway(*mocks)
    streams = [chat(gateway, stream=True, tokens=30) for _ in range(2)]
    wait_until(lambda: sum(mock.stats["running"] for mock in mocks) == 2, what="two streams")
    assert [mock.stats["running"] for mock in mocks] == [1, 1]
    for stream in streams:
        stream.close()


def test_a_client_that_leaves_ends_its_request_at_once(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    mock = make_mock("--itl-ms", "50")
    gateway = make_gateway(mock)
    for phase, fault in (("relaying", ""), ("waiting", "stall-before")):
        aborted = mock.stats["aborted"]
        body = json.dumps(
            {"model": MODEL, "stream": True, "max_tokens": 200, "messages": [], "prompt": "x", "mock": fault}
        ).encode()
        connection = socket.create_connection(gateway.address, timeout=10)
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        wait_until(lambda: mock.stats["running"] == 1, what="a running request")
        if phase == "relaying":
            assert connection.recv(10)
        left = time.monotonic()
        connection.close()
        wait_until(lambda before=aborted: mock.stats["aborted"] == before + 1, what="the abort")  # type: ignore[misc]
        seen = mock.stats["aborts"][-1]
        when = next(value for key, value in seen.items() if "time" in key or key == "at")
        assert when - left < 2.0  # some milliseconds; the machine may be busy with other things
        assert gateway.metric("tri_gateway_client_disconnects_total", phase=phase) == 1
    assert gateway.status["replicas"][0]["in_flight"] == 0


def test_a_client_that_reads_slowly_gets_everything_and_costs_little_memory(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(make_mock())
    worker = gateway.workers()[0]

    def resident() -> int:
        return int(Path(f"/proc/{worker}/statm").read_text().split()[1]) * 4096

    body = json.dumps(
        {"model": MODEL, "stream": True, "max_tokens": 8000, "messages": [{"role": "user", "content": "x"}]}
    ).encode()
    connections = []
    before = resident()
    for _ in range(20):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect(gateway.address)
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        connections.append(connection)
    time.sleep(2)
    assert chat(gateway).status_code == 200
    grown = resident() - before
    assert grown < 20 * 1_000_000, f"{grown / 20:.0f} bytes a stream"
    answers = []
    for connection in connections:
        answer = b""
        while part := connection.recv(1 << 20):
            answer += part
        answers.append(answer)
        connection.close()
    assert all(answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") for answer in answers)
    assert {answer.count(b"data: {") for answer in answers} == {8001}
    # The engine connections that were paused for them serve again.
    assert {chat(gateway).status_code for _ in range(40)} == {200}


def test_five_hundred_streams_at_once_are_all_whole(
    make_mock: Callable[..., Mock], make_gateway: Callable[..., Gateway]
) -> None:
    mocks = [make_mock("--itl-ms", "20", "--ttft-ms", "2000") for _ in range(2)]
    gateway = make_gateway(*mocks, workers=2)

    def one(_: int) -> int:
        return len(events_of(chat(gateway, stream=True, tokens=30)))

    with ThreadPoolExecutor(500) as pool:
        counts = set(pool.map(one, range(500)))
    assert len(counts) == 1
    assert sum(mock.stats["max_running"] for mock in mocks) > 250
    assert sum(mock.stats["aborted"] for mock in mocks) == 0
    wait_until(
        lambda: gateway.metric("tri_gateway_requests_total", route="chat_completions", status="200") == 500
    )
