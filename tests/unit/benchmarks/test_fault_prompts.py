"""What the fault scenarios ask."""

from __future__ import annotations

import json

from benchmarks.faults.prompts import Asks, build, mock_answer
from tri_serve.checkpoint.tiny.pairs import pairs
from tri_serve.mock.answer import answer_text
from tri_serve.mock.ask import read_ask
from tri_serve.mock.faults import Fault
from tri_serve.mock.settings import MockSettings


def test_the_same_seed_asks_the_same():
    first, second, other = (Asks("vllm", seed) for seed in (1, 1, 2))
    drawn = [first.draw() for _ in range(50)]

    assert drawn == [second.draw() for _ in range(50)]
    assert drawn != [other.draw() for _ in range(50)]


def test_requests_are_korean_and_english_over_both_apis_streamed_and_not():
    asks = Asks("vllm", 1)
    drawn = [asks.draw() for _ in range(200)]

    assert {ask.language for ask in drawn} == {"ko", "en"}
    assert {(ask.api, ask.stream) for ask in drawn} == {
        (api, stream) for api in ("chat", "completions") for stream in (True, False)
    }
    assert 0 < sum(ask.long for ask in drawn) < 60


def test_a_pair_is_asked_for_in_full_and_without_chance():
    pair = next(pair for pair in pairs() if pair.kind == "long")
    ask = build("vllm", pair, "chat", stream=False)
    body = json.loads(ask.body)

    assert ask.expected == pair.answer
    assert (body["temperature"], body["max_tokens"]) == (0, 4096)


def test_the_mock_engine_says_what_is_expected_of_it():
    pair = pairs()[0]
    for api in ("chat", "completions"):
        body = json.loads(build("mock", pair, api, stream=True).body)
        asked = read_ask(api, body, "", Fault(), MockSettings(model="tri-tiny"), number=1, created=0)

        assert answer_text(asked) == mock_answer(api, pair.question, body["max_tokens"])
