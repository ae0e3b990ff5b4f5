"""Flags among extra_args: dead ones with their successors, and those that make others void."""

import json
from collections.abc import Callable

import pytest

from tri_serve.plan.constraints import Request
from tri_serve.plan.constraints.dead_flags import DEAD_FLAGS, dead_in, replaced
from tri_serve.plan.flags import flags_in, value_of, without
from tri_serve.plan.result import Finding

Ask = Callable[..., Request]
Find = Callable[[Request, str], tuple[Finding, ...]]
Only = Callable[[Request, str], Finding]


def test_flags_are_read_as_vllm_reads_them() -> None:
    given = ("--swap_space", "4", "--seed=7", "--enforce-eager", "--seed", "9", "loose")
    assert [(flag.name, flag.value) for flag in flags_in(given)] == [
        ("--swap-space", "4"),
        ("--seed", "7"),
        ("--enforce-eager", None),
        ("--seed", "9"),
    ]
    assert value_of(given, "--seed") == "9"
    assert without(given, {"--seed"}) == ("--swap_space", "4", "--enforce-eager", "loose")


@pytest.mark.parametrize("name", [flag.name for flag in DEAD_FLAGS])
def test_every_dead_flag_is_refused_and_its_replacement_is_not(ask: Ask, only: Only, name: str) -> None:
    finding = only(ask(engine={"extra_args": ("--seed=1", name, "4")}), "dead-flags")
    assert finding.severity == "refusal"
    assert f"vLLM 0.32.0 no longer has {name}" in finding.message
    kept = json.loads(finding.change["engine.extra_args"])
    assert kept[0] == "--seed=1"


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        (("--swap-space", "4"), ()),
        (("--rope-theta=500000",), ('--hf-overrides={"rope_parameters": {"rope_theta": 500000}}',)),
        (
            ("--rope-scaling", '{"rope_type": "yarn", "factor": 4.0}'),
            ('--hf-overrides={"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}',),
        ),
        (
            ("--guided-decoding-backend", "xgrammar"),
            ('--structured-outputs-config={"backend": "xgrammar"}',),
        ),
        (("--worker-use-ray",), ("--distributed-executor-backend=ray",)),
        (("--hf-overrides={}", "--rope-theta", "1e6"), ("--hf-overrides={}",)),
        (("--enable-reasoning", "--reasoning-parser", "qwen3"), ("--reasoning-parser", "qwen3")),
    ],
)
def test_a_dead_flag_becomes_what_says_the_same(given: tuple[str, ...], becomes: tuple[str, ...]) -> None:
    assert replaced(given, (0, 32)) == becomes


def test_a_flag_is_dead_only_from_the_version_that_dropped_it(ask: Ask, found: Find) -> None:
    arguments = {"extra_args": ("--calculate-kv-scales",)}
    assert found(ask(engine=arguments | {"version": "0.27.1"}), "dead-flags") == ()
    assert len(found(ask(engine=arguments | {"version": "0.28.0"}), "dead-flags")) == 1
    assert "--swap-space" in dead_in((0, 18))


def test_living_flags_pass(ask: Ask, found: Find) -> None:
    living = ("--enforce-eager", "--max-cudagraph-capture-size", "64", "--task-like", "--seed", "1")
    assert found(ask(engine={"extra_args": living}), "dead-flags") == ()


def test_the_size_of_the_kv_cache_is_said_once(ask: Ask, found: Find, only: Only) -> None:
    given = {"extra_args": ("--kv-cache-memory-bytes", "8G")}
    finding = only(ask(engine=given | {"gpu_memory_utilization": 0.8}), "kv-cache-bytes")
    assert finding.severity == "warning"
    assert "engine.gpu_memory_utilization (0.8) void" in finding.message
    assert found(ask(engine=given), "kv-cache-bytes") == ()
    assert only(ask("cpu", engine=given), "kv-cache-bytes").severity == "warning"


def test_graphs_are_not_configured_where_they_are_off(ask: Ask, found: Find, only: Only) -> None:
    graphs = ("--max-cudagraph-capture-size=64",)
    finding = only(ask(engine={"extra_args": ("--enforce-eager", *graphs)}), "eager-and-graphs")
    assert finding.severity == "warning"
    assert finding.change == {"engine.extra_args": '["--enforce-eager"]'}
    for arguments in (graphs, ("--enforce-eager",)):
        assert found(ask(engine={"extra_args": arguments}), "eager-and-graphs") == ()


@pytest.mark.parametrize(
    ("gpu", "engine", "key"),
    [
        ("l4", {"cpu_kv_cache_gib": 4.0}, "engine.cpu_kv_cache_gib"),
        ("l4", {"cpu_threads": 8}, "engine.cpu_threads"),
        ("cpu", {"gpu_memory_utilization": 0.5}, "engine.gpu_memory_utilization"),
    ],
)
def test_keys_that_do_nothing_here_are_noted(
    ask: Ask, found: Find, only: Only, gpu: str, engine: dict[str, object], key: str
) -> None:
    finding = only(ask(gpu, engine=engine), "keys-of-another-device")
    assert finding.severity == "note"
    assert key in finding.change
    other = "cpu" if gpu != "cpu" else "l4"
    assert found(ask(other, engine=engine), "keys-of-another-device") == ()
