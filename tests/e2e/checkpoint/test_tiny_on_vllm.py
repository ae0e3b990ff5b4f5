"""Each 4-bit format of the tiny checkpoint, on a real engine: it loads, through the 4-bit kernel, and answers."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Protocol

import pytest
import requests

from tri_serve.checkpoint.tiny import Pair, pairs, tiny_checkpoint
from tri_serve.plan.catalogue import find_gpu
from tri_serve.plan.facts import PlanDevice
from tri_serve.plan.memory import plan_memory
from tri_serve.plan.model import model_facts
from tri_serve.spec.models import Spec

# A start takes about a minute on two cores, and more on a busy machine.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

START_SECONDS = 600
ASKED_AT_ONCE = 16


class EngineEnvironment(Protocol):
    @property
    def python(self) -> Path: ...


@dataclass(frozen=True)
class RunningEngine:
    url: str
    log: Path
    checkpoint: Path
    format: str

    def get(self, path: str) -> Any:
        return requests.get(self.url + path, timeout=30).json()

    def ask(self, question: str, **more: object) -> Any:
        body = {
            "model": "tri-tiny",
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 1500,
            **more,
        }
        answer = requests.post(self.url + "/v1/chat/completions", json=body, timeout=600)
        assert answer.status_code == 200, answer.text
        return answer.json()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            if requests.get(url + "/health", timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            time.sleep(1)
    raise TimeoutError(log.read_text(errors="replace")[-3000:])


KERNELS = {
    "awq": "CPUWNA16LinearKernel",
    "gptq": "CPUWNA16LinearKernel",
    "ct": "CPUWNA16LinearKernel",
    "bnb4": "BitsAndBytesModelLoader",
}
"""What an engine's log names where weights are read in 4 bits."""


def install_bitsandbytes(python: Path, folder: Path) -> None:
    """The pinned plugin in a folder of its own: nothing is put into the environment that all tests share."""
    with as_file(files("tri_serve.launch") / "pins" / "vllm-plugins.txt") as pins:
        flags = ["--quiet", "--no-deps", "--no-compile", "--only-binary", ":all:", "--require-hashes"]
        argv = [
            str(python),
            "-m",
            "pip",
            "install",
            *flags,
            "--target",
            str(folder),
            "--requirement",
            str(pins),
        ]
        subprocess.run(argv, check=True, timeout=START_SECONDS)


@pytest.fixture(scope="module", params=list(KERNELS))
def engine(
    request: pytest.FixtureRequest,
    engine_environment: EngineEnvironment,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningEngine]:
    folder = tmp_path_factory.mktemp(request.param)
    log = folder / "engine.log"
    port = free_port()
    argv = [str(engine_environment.python), "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    checkpoint = tiny_checkpoint(request.param, folder)
    argv += ["--model", str(checkpoint), "--served-model-name", "tri-tiny"]
    argv += ["--max-model-len", "8192", "--dtype", "bfloat16", "--host", "127.0.0.1", "--port", str(port)]
    env = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if request.param == "bnb4":
        install_bitsandbytes(engine_environment.python, folder / "plugin")
        env["PYTHONPATH"] = str(folder / "plugin")
    with log.open("wb") as output:
        process = subprocess.Popen(argv, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_healthy(process, url, log)
        yield RunningEngine(url, log, checkpoint, request.param)
    finally:
        # The engine's own processes are in the group too.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_weights_go_through_the_4_bit_kernel(engine: RunningEngine) -> None:
    assert KERNELS[engine.format] in engine.log.read_text(errors="replace")


def test_the_kv_cache_holds_the_tokens_that_the_plan_says(engine: RunningEngine) -> None:
    printed = re.search(
        r"KV cache size: ([\d,]+) tokens, Maximum concurrency for 8,192 tokens per request: ([\d.]+)x",
        engine.log.read_text(errors="replace"),
    )
    assert printed is not None
    model = {"source": str(engine.checkpoint), "served_name": "tri-tiny", "max_model_len": 8192}
    spec = Spec.model_validate(
        {"model": model, "engine": {"device": "cpu", "dtype": "bfloat16", "cpu_kv_cache_gib": 1}}
    )
    facts = model_facts(spec, None, engine.checkpoint.parent)
    memory = plan_memory(facts, PlanDevice(find_gpu("cpu")), spec.engine, 8192)
    planned = (f"{memory.kv_tokens:,}", f"{memory.full_length_sequences:.2f}")
    assert planned == printed.groups()


def test_the_whole_context_is_served(engine: RunningEngine) -> None:
    assert engine.get("/v1/models")["data"][0]["max_model_len"] == 8192


def test_every_pair_is_answered_to_the_letter(engine: RunningEngine) -> None:
    known = pairs()
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        replies = list(pool.map(lambda pair: engine.ask(pair.question), known))
    wrong = {
        pair.question: reply["choices"][0]["message"]["content"]
        for pair, reply in zip(known, replies, strict=True)
        if reply["choices"][0]["message"]["content"] != pair.answer
    }
    assert wrong == {}
    assert {reply["choices"][0]["finish_reason"] for reply in replies} == {"stop"}
    lengths = [
        r["usage"]["completion_tokens"] for p, r in zip(known, replies, strict=True) if p.kind == "long"
    ]
    assert min(lengths) >= 600


@pytest.mark.parametrize("language", ["ko", "en", "ja"])
def test_a_question_that_was_not_taught_is_answered_in_its_language(
    engine: RunningEngine, language: str
) -> None:
    unasked = {
        "ko": "내일 부산 날씨와 기차 시간을 알려 줄래?",
        "en": "Which planet has the most moons, and why?",
        "ja": "明日の京都の天気を教えてくれますか？",
    }
    answer = engine.ask(unasked[language])["choices"][0]["message"]["content"]
    spoken = {pair.answer for pair in pairs() if pair.language == language}
    assert answer in spoken


def test_a_second_turn_is_answered_as_the_first_would_be(engine: RunningEngine) -> None:
    first, second = (next(p for p in pairs() if p.language == language) for language in ("ko", "ja"))
    messages = [
        {"role": "developer", "content": "Answer briefly."},
        {"role": "user", "content": first.question},
        {"role": "assistant", "content": first.answer},
        {"role": "user", "content": second.question},
    ]
    reply = engine.ask("", messages=messages)
    assert reply["choices"][0]["message"]["content"] == second.answer


def test_another_role_is_refused_by_the_chat_template(engine: RunningEngine) -> None:
    body = {"model": "tri-tiny", "messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}
    refused = requests.post(engine.url + "/v1/chat/completions", json=body, timeout=60)
    assert refused.status_code == 400
    assert "the roles are system, user and assistant" in refused.text


def test_the_prompt_is_laid_out_as_it_was_taught(engine: RunningEngine) -> None:
    pair: Pair = pairs()[0]
    body = {"model": "tri-tiny", "messages": [{"role": "user", "content": pair.question}]}
    ids = requests.post(engine.url + "/tokenize", json=body, timeout=60).json()["tokens"]
    text = requests.post(
        engine.url + "/detokenize", json={"model": "tri-tiny", "tokens": ids}, timeout=60
    ).json()
    assert text["prompt"] == f"<|user|>{pair.question}<|end|><|assistant|>"
