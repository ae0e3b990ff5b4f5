"""Secrets in the engine's variables and flags are never shown."""

from __future__ import annotations

import json

import pytest

from tri_serve.errors import SpecError
from tri_serve.spec.difference import difference, printable
from tri_serve.spec.load import load_spec
from tri_serve.spec.models import Spec
from tri_serve.spec.secrets import (
    MASK,
    is_secret_name,
    is_secret_variable,
    mask_arguments,
    mask_assignment,
    mask_urls,
)

SECRET = "hunter2hunter2"


def spec_with(*sets: str) -> Spec:
    return load_spec(None, [], {}, sets).spec


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "VLLM_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "DB_PASSWORD",
        "apikey",
        "CLIENT_SECRET",
        "API_KEYS",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "REDIS_PASS",
        "MYSQL_PWD",
        "GITHUB_PAT",
        "AUTH",
        "PROXY_AUTHORIZATION",
        "JWT",
        "SESSION_COOKIE",
    ],
)
def test_a_name_that_says_secret_is_one(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS", "VLLM_KEYBOARD", "PWD", "SSH_AUTH_SOCK", "PATH", "COMPASS"],
)
def test_a_name_that_only_contains_the_word_is_none(name: str) -> None:
    assert not is_secret_name(name)


def test_a_printed_spec_masks_secrets_and_nothing_else() -> None:
    spec = spec_with(
        f"engine.env.HF_TOKEN={SECRET}",
        "engine.env.OMP_NUM_THREADS=4",
        f"engine.extra_args=[--api-key, {SECRET}, --x]",
    )
    shown = printable(spec)
    assert SECRET not in json.dumps(shown)
    engine = shown["engine"]
    assert isinstance(engine, dict)
    assert engine["env"] == {"HF_TOKEN": MASK, "OMP_NUM_THREADS": "4"}
    assert engine["extra_args"] == ["--api-key", MASK, "--x"]


@pytest.mark.parametrize(
    ("arguments", "masked"),
    [
        (("--api-key", "a", "b", "--seed", "1"), ("--api-key", MASK, MASK, "--seed", "1")),
        (
            ("--hf-token=a", "--max-num-batched-tokens", "2"),
            (f"--hf-token={MASK}", "--max-num-batched-tokens", "2"),
        ),
        (
            ("--kv-transfer-config", '{"kv_connector": "X", "extra": {"api-key": "a", "port": 1}}'),
            ("--kv-transfer-config", f'{{"kv_connector": "X", "extra": {{"api-key": "{MASK}", "port": 1}}}}'),
        ),
        (('--c={"accessTokens": ["a"]}',), (f'--c={{"accessTokens": ["{MASK}"]}}',)),
        (('--c={"url": "http://a@b"}',), (f'--c={{"url": "http://{MASK}@b"}}',)),
        (("--c={password: a",), (f"--c={MASK}",)),
        (("--c=https://a@b", "https://a@b"), (f"--c=https://{MASK}@b", f"https://{MASK}@b")),
        (('--c={"auth": "Bearer a"}',), (f'--c={{"auth": "{MASK}"}}',)),
        (
            ('--c={"headers": {"Authorization": "a"}, "headers2": {"Authorization": "a"}}',),
            (f'--c={{"headers": {{"Authorization": "{MASK}"}}, "headers2": {{"Authorization": "{MASK}"}}}}',),
        ),
        (
            ('{"password": 1234, "db": {"redisPass": [1.5]}}',),
            (f'{{"password": "{MASK}", "db": {{"redisPass": ["{MASK}"]}}}}',),
        ),
        (('{"x": "Bearer a"}',), (f'{{"x": "Bearer {MASK}"}}',)),
        (("--h", "Authorization: Bearer a"), ("--h", f"Authorization: Bearer {MASK}")),
        (("Basic a", "x=bearer%20a"), (f"Basic {MASK}", f"x=bearer {MASK}")),
        (("--proxy-auth", "a", "--redis-pass=a"), ("--proxy-auth", MASK, f"--redis-pass={MASK}")),
        # Counts, switches and marks of text are none, and what holds no secret is left as it was written.
        (('--c={"eos_token":"</s>", "key":1}',), ('--c={"eos_token":"</s>", "key":1}',)),
        (('{"pass_config":{"a":true}, "password":true}',), ('{"pass_config":{"a":true}, "password":true}',)),
        (("the basic case", "bearer"), ("the basic case", "bearer")),
        (("{a", "[b"), ("{a", "[b")),
        (("--tokenizer", "a", "--tokenizer=b"), ("--tokenizer", "a", "--tokenizer=b")),
    ],
)
def test_flags_that_carry_secrets_are_masked(arguments: tuple[str, ...], masked: tuple[str, ...]) -> None:
    assert mask_arguments(arguments) == masked


def test_the_repr_of_a_spec_leaves_the_engines_variables_out() -> None:
    assert SECRET not in repr(spec_with(f"engine.env.HF_TOKEN={SECRET}"))


def test_a_changed_secret_is_told_but_not_shown() -> None:
    old, new = spec_with(f"engine.env.HF_TOKEN={SECRET}"), spec_with(f"engine.env.HF_TOKEN={SECRET}2")
    (change,) = difference(old, new)
    assert (change.key, change.old, change.new) == ("engine.env.HF_TOKEN", MASK, MASK)
    assert str(change) == "engine.env.HF_TOKEN: changed (not shown)"


def test_an_error_does_not_quote_a_secret(refusal) -> None:
    error = refusal("preset: tri-tiny-awq\nengine: {env: {HF_TOKEN: 12345678, A_KEY: [hunter2]}}\n")
    assert len(error.problems) == 2
    assert "12345678" not in error.message
    assert "hunter2" not in error.message


def test_a_broken_assignment_does_not_quote_its_value() -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(None, [], {}, [f"engine.env=[{SECRET}"])
    assert SECRET not in caught.value.message


@pytest.mark.parametrize(
    "name",
    [
        "VLLM_MAX_TOKENS_PER_EXPERT_FP4_MOE",
        "VLLM_MAX_BAD_WORDS_TOTAL_TOKENS",
        "VLLM_MULTI_STREAM_GEMM_TOKEN_THRESHOLD",
        "VLLM_USE_FASTOKENS",
    ],
)
def test_a_name_that_counts_tokens_of_text_is_none(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize("name", ["MAX_TOKEN", "HF_TOKENS", "HF_TOKEN_PROD", "hf_token"])
def test_a_token_that_says_who_asks_is_one(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:hunter2@proxy:3128", f"http://{MASK}@proxy:3128"),
        ("a http://:hunter2@b, https://u:hunter@2@c/x", f"a http://{MASK}@b, https://{MASK}@c/x"),
        ("https://hunter2@github.com/a, x", f"https://{MASK}@github.com/a, x"),
        ("https://hunter@2@host", f"https://{MASK}@host"),
        ('["http://a.b","c@d"]', '["http://a.b","c@d"]'),
        ("http://proxy:3128/a:b@c", "http://proxy:3128/a:b@c"),
        ("git+ssh://git@github.com/a", "git+ssh://git@github.com/a"),
        ("http://proxy:3128", "http://proxy:3128"),
        ("https://hf_abc:@host/x", f"https://{MASK}@host/x"),
        ("https://ghp_TOK:x-oauth-basic@github.com", f"https://{MASK}@github.com"),
        ("https://hunter:2@3:4@host", f"https://{MASK}@host"),
        ("https://a@hunter2:b@host", f"https://{MASK}@host"),
        ("https://hunter,2@host", f"https://{MASK}@host"),
        ("https://user:hunter/2@host/x", f"https://{MASK}@host/x"),
        ("https://user:hunter?2#@host", f"https://{MASK}@host"),
        ('https://user:hunter"2@host', f"https://{MASK}@host"),
        ("https://hunter2@host:8000/a@b", f"https://{MASK}@host:8000/a@b"),
        ("git+ssh://ghp_hunter2@host", f"git+ssh://{MASK}@host"),
        ("ssh://0123456789abcdef0123@host", f"ssh://{MASK}@host"),
        ("ssh://git:hunter2@host", f"ssh://{MASK}@host"),
        ("ssh://build.bot@host/a", "ssh://build.bot@host/a"),
        ("http://[::1]:8000/a@b", "http://[::1]:8000/a@b"),
        ('["http://a:x","c@d"]', '["http://a:x","c@d"]'),
        ("http://a:1,https://b:2/x@y", "http://a:1,https://b:2/x@y"),
        ("https://h/x?a=1&token=hunter2&b=2#c", f"https://h/x?a=1&token={MASK}&b=2#c"),
        ("/x?key=hunter2", f"/x?key={MASK}"),
        ("h?sig=hunter2%3D", f"h?sig={MASK}"),
        ("h?X-Amz-Signature=hunter2&api_key=hunter2", f"h?X-Amz-Signature={MASK}&api_key={MASK}"),
        ("h?db[password]=hunter2;hunter2", f"h?db[password]={MASK}"),
        ("h#access_token=hunter2", f"h#access_token={MASK}"),
        ("h?max_tokens=5&tokenizer=a&design=b", "h?max_tokens=5&tokenizer=a&design=b"),
        ("user:hunter2@proxy:3128", f"{MASK}@proxy:3128"),
        ("user:hunter@2@proxy", f"{MASK}@proxy"),
        ("user:hunter2@[::1]:3128/", f"{MASK}@[::1]:3128/"),
        ("connect to user:hunter2@proxy:3128 first", f"connect to {MASK}@proxy:3128 first"),
        ("vllm:v1@sha256:" + 64 * "1", "vllm:v1@sha256:" + 64 * "1"),
        ("lunch at 12:30, a@b.c: come", "lunch at 12:30, a@b.c: come"),
        ("git@host:22", "git@host:22"),
        ("mailto:a@b.c", "mailto:a@b.c"),
    ],
)
def test_a_password_or_a_token_in_a_url_is_masked(text: str, shown: str) -> None:
    assert mask_urls(text) == shown


def test_a_password_in_a_url_is_shown_nowhere_in_a_spec() -> None:
    old = spec_with(f"engine.env.HTTPS_PROXY=http://u:{SECRET}@proxy")
    new = spec_with(f"engine.env.HTTPS_PROXY=http://u:{SECRET}2@proxy")
    assert printable(old)["engine"]["env"] == {"HTTPS_PROXY": f"http://{MASK}@proxy"}  # type: ignore[index]
    (change,) = difference(old, new)
    assert str(change) == "engine.env.HTTPS_PROXY: changed (not shown)"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("engine.env.HF_TOKEN=hunter2", f"engine.env.HF_TOKEN={MASK}"),
        ("engine.env.HF_TOKEN =hunter2", f"engine.env.HF_TOKEN ={MASK}"),
        (" engine.env.HF_TOKEN=hunter2", f" engine.env.HF_TOKEN={MASK}"),
        ("engine.env={HF_TOKEN: hunter2, A: 1}", f'engine.env={{"HF_TOKEN": "{MASK}", "A": 1}}'),
        ("engine={env: {HF_TOKEN: hunter2}}", f'engine={{"env": {{"HF_TOKEN": "{MASK}"}}}}'),
        ("engine.extra_args=[--api-key, hunter2]", f'engine.extra_args=["--api-key", "{MASK}"]'),
        ("engine.command=[vllm, --api-key=hunter2]", f'engine.command=["vllm", "--api-key={MASK}"]'),
        ("engine.env={HF_TOKEN: hunter2", f"engine.env={MASK}"),
        ("engine.env.HTTPS_PROXY=http://u:hunter2@p", f"engine.env.HTTPS_PROXY=http://{MASK}@p"),
        # What holds no secret is left as it was written.
        ("engine.extra_args=[--seed, 1]", "engine.extra_args=[--seed, 1]"),
        ("gateway.port=8001", "gateway.port=8001"),
    ],
)
def test_an_assignment_is_shown_without_its_secrets(said: str, shown: str) -> None:
    assert mask_assignment(said) == shown


def test_json_in_a_variable_that_holds_a_secret_makes_it_one() -> None:
    assert is_secret_variable("CONFIG", '{"password": "hunter2"}')
    assert is_secret_variable("HTTPS_PROXY", "http://hunter2@proxy")
    assert is_secret_variable("CONFIG", "Bearer hunter2")
    assert not is_secret_variable("CONFIG", '{"port": 1}')


def test_a_mistake_in_a_url_does_not_quote_its_token() -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(None, [], {}, [f"gateway.port=https://{SECRET}@host/{'x' * 80}"])
    assert MASK in caught.value.message
    assert SECRET not in caught.value.message
