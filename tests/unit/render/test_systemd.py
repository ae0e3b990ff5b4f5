from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from tri_serve.errors import LaunchError
from tri_serve.launch.standalone import standalone_launch
from tri_serve.render.systemd import seen_words, unit_name
from tri_serve.spec.load import load_spec

Render = Callable[..., str]
Settings = dict[str, list[str]]


def settings(text: str) -> Settings:
    """Each setting's values in order; lines that go on are one."""
    found: Settings = {}
    for line in text.replace(" \\\n    ", " ").splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_runs_the_command(render: Render) -> None:
    start = settings(render("systemd"))["ExecStart"]
    assert start == [
        "/usr/bin/env vllm serve trillionlabs/Tri-21B --served-model-name tri-21b --dtype bfloat16 "
        "--max-model-len 8192 --quantization awq --shutdown-timeout 30 --host 127.0.0.1"
    ]


def test_a_program_with_a_path_is_started_itself(render: Render) -> None:
    start = settings(render("systemd", "engine.command=[/opt/vllm/bin/vllm, serve]"))["ExecStart"]
    assert start[0].startswith("/opt/vllm/bin/vllm serve trillionlabs/Tri-21B ")


def test_an_engine_may_finish_before_it_is_killed_and_is_asked_alone(render: Render) -> None:
    made = settings(render("systemd", "engine.shutdown_timeout=90.5"))
    assert made["TimeoutStopSec"] == ["121"]
    assert made["KillMode"] == ["mixed"]


def test_the_engine_s_user_can_write_to_its_own_places_alone(render: Render) -> None:
    made = settings(render("systemd"))
    for name in ("DynamicUser", "NoNewPrivileges", "PrivateTmp", "RestrictSUIDSGID"):
        assert made[name] == ["yes"]
    assert made["ProtectSystem"] == ["strict"]
    assert {"HOME=/var/lib/vllm-tri-21b", "XDG_CACHE_HOME=/var/cache/vllm-tri-21b"} <= set(
        made["Environment"]
    )
    assert (made["StateDirectory"], made["CacheDirectory"]) == (["vllm-tri-21b"], ["vllm-tri-21b"])


def test_nothing_hides_the_gpu_or_forbids_compiling(render: Render) -> None:
    made = settings(render("systemd"))
    assert {
        "PrivateDevices",
        "DevicePolicy",
        "DeviceAllow",
        "ProtectClock",
        "MemoryDenyWriteExecute",
    }.isdisjoint(made)


@pytest.mark.parametrize(
    ("sets", "home"),
    [
        (["model.source=/srv/tri"], "yes"),
        (["model.source=/homes/tri"], "yes"),
        (["model.source=trillionlabs/Tri-21B"], "yes"),
        (["model.source=/home/ann/tri"], "read-only"),
        (["model.source=/srv/../root/tri"], "read-only"),
        (["model.source=/srv/tri", "engine.python=/home/ann/venv/bin/python"], "read-only"),
        (
            ["model.source=/srv/tri", "engine.command=[/usr/bin/nice, /home/ann/venv/bin/vllm, serve]"],
            "read-only",
        ),
        (["model.source=/srv/tri", "engine.env.LD_LIBRARY_PATH='/opt/lib:/home/ann/lib'"], "read-only"),
        (
            ["model.source=/srv/tri", "engine.extra_args=['--chat-template=/home/ann/chat.jinja']"],
            "read-only",
        ),
        (["model.source=/srv/tri", "engine.env.HTTPS_PROXY='http://proxy/home/'"], "yes"),
    ],
)
def test_what_lies_in_a_home_stays_readable(sets: list[str], home: str, render: Render) -> None:
    assert settings(render("systemd", *sets))["ProtectHome"] == [home]


@pytest.mark.parametrize(
    ("sets", "key"),
    [
        (["model.source=/tmp/tri"], "model.source"),
        (["model.source=/var/tmp/tri"], "model.source"),
        (["engine.python=/tmp/venv/bin/python"], "engine.python"),
        (["engine.command=[/tmp/venv/bin/vllm, serve]"], "engine.command"),
    ],
)
def test_an_engine_or_checkpoint_that_the_unit_would_not_see_is_refused(
    sets: list[str], key: str, render: Render
) -> None:
    with pytest.raises(LaunchError, match=rf"{re.escape(key)}: .* would not see it"):
        render("systemd", *sets)


def words_of(*sets: str) -> str:
    spec = load_spec("tri-21b-awq", [], {}, ["model.source=/srv/tri", *sets]).spec
    return " ".join(seen_words(spec, standalone_launch(spec)))


def test_paths_that_the_unit_s_user_may_not_reach_are_said() -> None:
    assert "/home/ann/venv/bin/python: in a home" in words_of("engine.python=/home/ann/venv/bin/python")
    assert "engine.env.TORCH_HOME names /tmp/torch" in words_of("engine.env.TORCH_HOME=/tmp/torch")
    assert words_of("engine.env.TMPDIR=/tmp", "engine.python=/opt/venv/bin/python") == ""


def test_the_unit_says_what_its_user_must_be_able_to_read(render: Render) -> None:
    who = "# The engine runs as a user of its own, which must be able to read"
    assert who not in render("systemd")
    assert f"{who} the checkpoint.\n" in render("systemd", "model.source=/srv/tri")
    both = render("systemd", "model.source=/srv/tri", "engine.python=/opt/venv/bin/python")
    assert f"{who} the engine and the checkpoint.\n" in both


def test_secrets_come_from_a_file_that_must_be_there_if_the_spec_needs_one(render: Render) -> None:
    assert settings(render("systemd"))["EnvironmentFile"] == ["-/etc/tri-serve/vllm-tri-21b.env"]
    made = settings(render("systemd", "engine.env.HF_TOKEN=hunter2"))
    assert made["EnvironmentFile"] == ["/etc/tri-serve/vllm-tri-21b.env"]


@pytest.mark.parametrize(
    ("value", "argument", "variable"),
    [
        ("a%b", "a%%b", "X=a%%b"),
        ("a$b", "a$$b", "X=a$b"),
        ("${HOME}", "$${HOME}", "X=${HOME}"),
        ("a b", '"a b"', '"X=a b"'),
        ('{"a": 1}', r'"{\"a\": 1}"', r'"X={\"a\": 1}"'),
        ("a\\b", r'"a\\b"', r'"X=a\\b"'),
        ("a;b", '"a;b"', '"X=a;b"'),
        ("한국어", '"한국어"', '"X=한국어"'),
    ],
)
def test_what_systemd_would_interpret_is_escaped(
    value: str, argument: str, variable: str, render: Render
) -> None:
    arguments = f"engine.extra_args=['--additional-config', {json.dumps(value)}]"
    made = settings(render("systemd", arguments, texts=(f"engine.env.X={value}",)))
    assert made["ExecStart"][0].endswith(f"--additional-config {argument}")
    assert variable in made["Environment"]


def test_what_no_unit_can_hold_is_refused(render: Render) -> None:
    with pytest.raises(LaunchError, match="cannot hold"):
        render("systemd", texts=("engine.env.X=a\nb",))


def test_the_unit_is_named_for_engine_and_model() -> None:
    spec = load_spec(
        "tri-21b-awq", [], {}, ["model.source=/m", "model.served_name=trillionlabs/Tri-21B"]
    ).spec
    assert unit_name(spec) == "vllm-trillionlabs-tri-21b"
