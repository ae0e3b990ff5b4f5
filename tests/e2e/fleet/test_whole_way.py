"""The whole way: ``tri-serve up`` on a real vLLM engine, used by the clients that people use, broken on purpose.

One fleet for the module, as `up` makes it by default: two replicas under Ray, since an engine takes about a minute
to start. The tests run in the order of this file; those
that kill come last, and the very last takes the fleet down.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import requests

from tri_serve.checkpoint.tiny import pairs
from tri_serve.process.ports import bind_listener

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

START_SECONDS = 420
KOREAN = "자기소개를 해 주세요."


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds:g} s")
        time.sleep(0.2)


def metric(port: int, name: str) -> float:
    """The sum of its samples."""
    text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
    pattern = re.compile(rf"{re.escape(name)}[{{ ]")
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if pattern.match(line))


@dataclass
class Fleet:
    """One release of its own state directory, driven by the command line alone."""

    environ: dict[str, str]
    port: int
    up_output: str = ""

    def run(
        self, *arguments: str, stdin: str | None = None, seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).with_name("tri-serve")), *arguments],
            env=self.environ,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def status(self) -> dict[str, Any]:
        document = json.loads(self.run("status", "-r", "whole", "-o", "json").stdout)
        result: dict[str, Any] = document
        return result

    @property
    def replicas(self) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.status["replicas"]
        return result

    def engine_key(self) -> str:
        environ = Path(f"/proc/{self.replicas[0]['pid']}/environ").read_bytes().split(b"\0")
        return next(v.partition(b"=")[2].decode() for v in environ if v.startswith(b"VLLM_API_KEY="))

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return requests.get(f"{self.url}/ready", timeout=5).status_code == 200
        return False

    def engine_metric(self, name: str, replica: int | None = None) -> float:
        """Of one replica, or the sum over all."""
        chosen = self.replicas if replica is None else [self.replicas[replica]]
        return sum(metric(each["port"], name) for each in chosen)

    def gateway_metric(self, name: str) -> float:
        return metric(self.status["gateways"][0]["admin_port"], name)

    def processes(self) -> dict[int, str]:
        """Live processes of this fleet, by its state directory in their environment."""
        mark = f"XDG_STATE_HOME={self.environ['XDG_STATE_HOME']}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if command:
                        found[int(entry.name)] = command
        return found


@pytest.fixture(scope="module")
def fleet(engine_environment: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    root = tmp_path_factory.mktemp("whole")
    environ = {
        **os.environ,
        "XDG_STATE_HOME": str(root / "state"),
        "XDG_CACHE_HOME": str(root / "cache"),
        "COLUMNS": "80",
    }
    made = Fleet(environ, free_port())
    result = made.run("up", "-r", "whole", "--set", f"gateway.port={made.port}", seconds=START_SECONDS)
    made.up_output = result.stdout + result.stderr
    try:
        assert result.returncode == 0, made.up_output
        yield made
    finally:
        made.run("down", "-r", "whole", seconds=120)
        left = made.processes()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def client(fleet: Fleet) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0, timeout=120) as made:
        yield made


def question(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def answer_to(text: str) -> str:
    return next(pair.answer for pair in pairs() if pair.question == text)


def test_up_shows_a_korean_answer_and_how_to_go_on(fleet: Fleet) -> None:
    output = fleet.up_output
    assert answer_to(KOREAN) in output.replace("\n", "") or answer_to(KOREAN) in output
    assert f"{fleet.url}/v1" in output
    assert "curl " in output
    assert "from openai import OpenAI" in output
    own = re.search(r"([\d.]+) s tri-serve", output)
    assert own is not None
    assert float(own[1]) < 10


def test_both_engines_run_the_4_bit_kernel(fleet: Fleet) -> None:
    replicas = fleet.replicas
    assert [replica["name"] for replica in replicas] == ["replica-0", "replica-1"]
    for replica in replicas:
        log = fleet.run("logs", "-r", "whole", replica["name"], "--tail", "2000").stdout
        assert "CPUWNA16LinearKernel" in log
        assert replica["linear_kernel"] == "CPUWNA16LinearKernel"
        assert replica["kv_cache_tokens"] > 8192


def test_the_printed_curl_line_and_python_snippet_work(fleet: Fleet) -> None:
    output = fleet.up_output
    curl = output[output.index("curl ") : output.index("from openai")].replace("\\\n", " ")
    result = subprocess.run([*shlex.split(curl), "--silent"], capture_output=True, text=True, timeout=120)
    assert json.loads(result.stdout)["choices"][0]["message"]["content"]
    snippet = output[output.index("from openai") : output.index("Next:")]
    printed = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, timeout=120)
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.strip()


def test_up_again_changes_nothing(fleet: Fleet) -> None:
    def pids() -> list[int]:
        status = fleet.status
        ray = status["ray"]["processes"].values()
        return [part["pid"] for part in (*status["replicas"], *status["gateways"], status["supervisor"])] + [
            *ray
        ]

    before = pids()
    result = fleet.run("up", "-r", "whole", "--set", f"gateway.port={fleet.port}")
    assert result.returncode == 0
    assert "already" in result.stdout
    assert pids() == before


def test_the_openai_client_chats(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tri-tiny", messages=question(KOREAN), temperature=0)
    assert answer.choices[0].message.content == answer_to(KOREAN)
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 10


def test_the_openai_client_streams(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tri-tiny",
            messages=question(KOREAN),
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == answer_to(KOREAN)
    assert chunks[-1].usage is not None


def test_the_openai_client_completes_and_lists_models(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tri-tiny", prompt="안녕", max_tokens=8, temperature=0)
    assert answer.choices[0].text
    assert [model.id for model in client.models.list()] == ["tri-tiny"]


def test_the_openai_client_uses_responses(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="tri-tiny", input=KOREAN, temperature=0, max_output_tokens=200)
    assert answer.output_text == answer_to(KOREAN)
    events = list(
        client.responses.create(
            model="tri-tiny", input=KOREAN, temperature=0, max_output_tokens=200, stream=True
        )
    )
    assert events[-1].type == "response.completed"


def test_the_openai_client_gets_errors_as_openais(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-4", messages=question("hi"))
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="context length"):
        client.chat.completions.create(model="tri-tiny", messages=question("가나다라마바사 " * 9000))
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tri-tiny", messages=question("hi"), temperature=-1)
    with pytest.raises(openai.APIStatusError) as large:
        client.chat.completions.create(model="tri-tiny", messages=question("x" * 1_100_000))
    assert large.value.status_code == 413


def test_the_anthropic_client_works(fleet: Fleet) -> None:
    with anthropic.Anthropic(base_url=fleet.url, api_key="none", max_retries=0, timeout=120) as client:
        message = client.messages.create(
            model="tri-tiny", max_tokens=200, messages=question(KOREAN), extra_body={"temperature": 0}
        )
        assert "".join(block.text for block in message.content if block.type == "text") == answer_to(KOREAN)
        with client.messages.stream(
            model="tri-tiny", max_tokens=200, messages=question(KOREAN), extra_body={"temperature": 0}
        ) as stream:
            assert "".join(stream.text_stream) == answer_to(KOREAN)
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(model="nope", max_tokens=5, messages=question("x"))


def normalised(body: bytes) -> list[tuple[str, str]]:
    """(event without its text, text) for each event; ids and times made equal.

    Events that differ in nothing but their text are joined: an engine puts two tokens into one event when the
    machine is busy. That every byte is passed on as it came is tested against the mock engine.
    """
    text = re.sub(r'"(created|created_at)": ?\d+', '"created":0', body.decode())
    text = re.sub(r'"(id|item_id)": ?"[^"]*"', '"id":"ID"', text)
    joined: list[tuple[str, str]] = []
    for event in text.split("\n\n"):
        said = re.search(r'"(?:content|text)":"((?:[^"\\]|\\.)*)"', event)
        frame, words = (event.replace(said[0], ""), said[1]) if said else (event, "")
        if joined and said and joined[-1][0] == frame:
            words = joined.pop()[1] + words
        joined.append((frame, words))
    return joined


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages"])
def test_a_stream_is_what_the_engine_itself_sends(fleet: Fleet, path: str) -> None:
    prompt: dict[str, Any] = (
        {"prompt": KOREAN} if path == "/v1/completions" else {"messages": question(KOREAN)}
    )
    body = {"model": "tri-tiny", "stream": True, "temperature": 0, "max_tokens": 120, **prompt}
    direct = requests.post(
        f"http://127.0.0.1:{fleet.replicas[0]['port']}{path}",
        json=body,
        headers={"authorization": f"Bearer {fleet.engine_key()}"},
        timeout=120,
    )
    routed = requests.post(fleet.url + path, json=body, timeout=120)
    assert routed.status_code == direct.status_code == 200
    assert normalised(routed.content) == normalised(direct.content)
    assert routed.headers["content-type"] == direct.headers["content-type"]


def test_tokenize_and_detokenize_agree(fleet: Fleet) -> None:
    tokens = requests.post(
        f"{fleet.url}/tokenize",
        json={"model": "tri-tiny", "prompt": "안녕 👋", "add_special_tokens": False},
        timeout=30,
    ).json()
    assert tokens["max_model_len"] == 8192
    text = requests.post(
        f"{fleet.url}/detokenize", json={"model": "tri-tiny", "tokens": tokens["tokens"]}, timeout=30
    ).json()
    assert text["prompt"] == "안녕 👋"


def test_the_engines_own_routes_are_out_of_reach(fleet: Fleet) -> None:
    for method, path in (
        ("POST", "/sleep"),
        ("GET", "/metrics"),
        ("POST", "/v1/load_lora_adapter"),
        ("GET", "/docs"),
    ):
        assert requests.request(method, fleet.url + path, json={}, timeout=10).status_code == 404


def test_secrets_are_in_no_argv_and_no_log(fleet: Fleet) -> None:
    key = fleet.engine_key()
    assert len(key) >= 32
    assert not [command for command in fleet.processes().values() if key in command]
    state = Path(fleet.environ["XDG_STATE_HOME"])
    for file in state.rglob("*"):
        if file.is_file():
            text = file.read_text(errors="replace")
            assert file.stat().st_mode & 0o077 == 0 or key not in text
            if file.suffix == ".log":
                assert key not in text
                assert KOREAN not in text


def test_chat_on_the_command_line_streams_and_reads_stdin(fleet: Fleet) -> None:
    said = fleet.run("chat", "-r", "whole", "--temperature", "0", KOREAN)
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == answer_to(KOREAN)
    piped = fleet.run("chat", "-r", "whole", "--temperature", "0", stdin=KOREAN)
    assert piped.stdout.strip() == answer_to(KOREAN)


def test_a_client_that_leaves_ends_its_request_in_the_engine(fleet: Fleet) -> None:
    body = json.dumps(
        {"model": "tri-tiny", "prompt": "x", "max_tokens": 7000, "stream": True, "ignore_eos": True}
    ).encode()
    with socket.create_connection(("127.0.0.1", fleet.port), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert connection.recv(100)
        # The engine counts a request with its first step, which may come after its answer's head.
        wait_until(
            lambda: fleet.engine_metric("vllm:num_requests_running") == 1, 10, "the engine's request to run"
        )
    wait_until(
        lambda: fleet.engine_metric("vllm:num_requests_running") == 0, 10, "the engine's request to end"
    )


async def _stream(port: int, index: int, *, slow: bool) -> tuple[bool, int]:
    """One stream over a raw connection: (whole?, events). A slow one sleeps between small reads."""
    body = json.dumps(
        {
            "model": "tri-tiny",
            "messages": question(f"{index}"),
            "max_tokens": 16,
            "ignore_eos": True,
            "stream": True,
        }
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2048 if slow else 65536)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    answer = b""
    while part := await reader.read(512 if slow else 65536):
        answer += part
        if slow:
            await asyncio.sleep(0.05)
    writer.close()
    return answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), answer.count(b"data: {")


def test_five_hundred_parallel_streams_slow_readers_among_them_are_all_whole(fleet: Fleet) -> None:
    async def all_of_them() -> list[tuple[bool, int]]:
        return await asyncio.gather(*(_stream(fleet.port, n, slow=n % 25 == 0) for n in range(500)))

    before = fleet.engine_metric("vllm:request_success_total")
    results = asyncio.run(asyncio.wait_for(all_of_them(), 400))
    assert all(whole for whole, _ in results)
    assert min(events for _, events in results) >= 2
    assert fleet.engine_metric("vllm:request_success_total") - before == 500
    assert fleet.engine_metric("vllm:num_requests_running") == 0
    assert fleet.gateway_metric("tri_gateway_stream_failures_total") == 0


@pytest.mark.parametrize("victim", ["API server", "EngineCore"])
def test_a_killed_engine_is_told_to_its_streams_and_to_nobody_else_and_comes_back(
    fleet: Fleet, victim: str
) -> None:
    before = fleet.replicas
    body = {"model": "tri-tiny", "prompt": "x", "max_tokens": 7000, "stream": True, "ignore_eos": True}
    stream = requests.post(f"{fleet.url}/v1/completions", json=body, stream=True, timeout=60)
    lines = stream.iter_lines()
    assert next(lines).startswith(b"data: {")
    (hit,) = [n for n in range(len(before)) if fleet.engine_metric("vllm:num_requests_running", n) == 1]
    pid = before[hit]["pid"] if victim == "API server" else before[hit]["core_pids"][0]
    os.kill(pid, signal.SIGKILL)
    data = [line.removeprefix(b"data: ") for line in lines if line]
    if data[-1] == b"[DONE]":  # vLLM's server outlived its core: it says the error itself, and ends as ever
        data.pop()
    assert "error" in json.loads(data[-1]), data[-1]
    for _ in range(4):
        said = fleet.run("chat", "-r", "whole", "--temperature", "0", KOREAN)
        assert said.stdout.strip() == answer_to(KOREAN)
    wait_until(
        lambda: fleet.replicas[hit]["restarts"] == before[hit]["restarts"] + 1,
        30,
        "the supervisor to notice",
    )
    wait_until(lambda: fleet.replicas[hit]["phase"] == "ready", START_SECONDS, "the engine's return")
    after = fleet.replicas
    assert after[hit]["pid"] != before[hit]["pid"]
    assert after[1 - hit]["pid"] == before[1 - hit]["pid"]
    assert fleet.status["condition"] == "ready"


def test_without_any_engine_requests_are_refused_in_words_until_one_is_back(fleet: Fleet) -> None:
    for replica in fleet.replicas:
        os.kill(replica["pid"], signal.SIGKILL)
    wait_until(lambda: not fleet.is_ready(), 30, "the gateway to notice")
    body = {"model": "tri-tiny", "prompt": "x", "max_tokens": 4}
    refused = requests.post(f"{fleet.url}/v1/completions", json=body, timeout=60)
    assert refused.status_code == 503
    assert refused.json()["error"]["type"] == "service_unavailable"
    wait_until(fleet.is_ready, START_SECONDS, "an engine's return")
    assert requests.post(f"{fleet.url}/v1/completions", json=body, timeout=60).status_code == 200
    wait_until(lambda: fleet.status["condition"] == "ready", START_SECONDS, "both engines' return")


def _is_core(pid: int) -> bool:
    """vLLM names its core process by setproctitle: it shows in cmdline or comm."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/comm").read_bytes()
        return b"EngineCore" in text or b"EngineCor" in text
    return False


def test_down_in_the_midst_of_trouble_leaves_nothing_and_can_be_said_twice(fleet: Fleet) -> None:
    """Streams are running, one client does not read, and the engine has just been killed."""
    assert len(fleet.processes()) >= 10  # supervisor, guards, Ray, engines and cores, gateway and worker
    body = {"model": "tri-tiny", "prompt": "x", "max_tokens": 4000, "stream": True, "ignore_eos": True}
    streams = [
        requests.post(f"{fleet.url}/v1/completions", json=body, stream=True, timeout=60) for _ in range(8)
    ]
    cores = [pid for pid in fleet.processes() if _is_core(pid)]
    assert len(cores) == 2, fleet.processes()
    os.kill(cores[0], signal.SIGKILL)
    result = fleet.run("down", "-r", "whole", seconds=120)
    for stream in streams:
        stream.close()
    assert result.returncode == 0, result.stderr
    assert fleet.processes() == {}
    bind_listener("127.0.0.1", fleet.port).close()
    again = fleet.run("down", "-r", "whole")
    assert again.returncode == 0
