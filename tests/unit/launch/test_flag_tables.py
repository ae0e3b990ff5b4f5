"""The tables that ship, and how an argument is found in one."""

from __future__ import annotations

import pytest

from tri_serve.launch.flags.table import (
    Flag,
    FlagTable,
    known_versions,
    parse_table,
    read_table,
    table_name,
)
from tri_serve.launch.vllm_flags import OURS, SHORT, SPEC_KEYS
from tri_serve.plan.constraints.dead_flags import DEAD_FLAGS
from tri_serve.spec.engine import TESTED_VERSIONS, EngineKind

TABLE = FlagTable(
    "vllm",
    "0.40.1",
    {"distribution": "a.whl", "sha256": "0"},
    (
        Flag("--max-model-len", kind="int", default=None),
        Flag("--max-num-seqs", kind="int", default=None),
        Flag("--tensor-parallel-size", ("-tp",), "int", default=1),
        Flag("--optimization-level", ("-O",), "int"),
        Flag("--enforce-eager", kind="bool", negation="--no-enforce-eager", default=False),
        Flag("--compilation-config", ("-cc",), "json"),
        Flag("--dtype", choices=("auto", "half"), default="auto"),
    ),
)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("--max-model-len", "--max-model-len"),
        ("--max_model_len=4k", "--max-model-len"),
        ("--max-mod", "--max-model-len"),
        ("-tp", "--tensor-parallel-size"),
        ("-tp=2", "--tensor-parallel-size"),
        ("-O3", "--optimization-level"),
        ("--no-enforce-eager", "--enforce-eager"),
        ("--no_enforce", "--enforce-eager"),
        ("--compilation-config.mode", "--compilation-config"),
        ("-cc.mode=3", "--compilation-config"),
        ("--max", None),
        ("--max-model-length", None),
        ("-x", None),
    ],
)
def test_an_argument_is_found_as_the_engine_s_parser_finds_it(written: str, name: str | None) -> None:
    found = TABLE.find(written)
    assert (found.name if found else None) == name


def test_a_table_is_the_same_after_it_was_written_and_read() -> None:
    again = parse_table(TABLE.to_json())
    assert (again.engine, again.version, again.source) == (TABLE.engine, TABLE.version, TABLE.source)
    assert again.by_spelling == TABLE.by_spelling
    assert again.to_json() == TABLE.to_json()


@pytest.mark.parametrize(
    ("engine", "version", "name"),
    [("vllm", "0.32.1", "vllm-0.32.json"), ("sglang", "0.5.12.post1", "sglang-0.5.12.json")],
)
def test_a_patch_release_of_vllm_shares_its_table(engine: EngineKind, version: str, name: str) -> None:
    assert table_name(engine, version) == name


def test_the_versions_that_the_product_names_have_tables() -> None:
    assert {(0, 18), (0, 24), (0, 29), (0, 32)} <= set(known_versions("vllm"))
    assert known_versions("vllm") == tuple(sorted(known_versions("vllm")))
    for engine, version in TESTED_VERSIONS.items():
        assert table_name(engine, version) in {
            table_name(engine, ".".join(map(str, known))) for known in known_versions(engine)
        }


ALL: list[tuple[EngineKind, tuple[int, ...]]] = [
    *(("vllm", version) for version in known_versions("vllm")),
    *(("sglang", version) for version in known_versions("sglang")),
]


@pytest.mark.parametrize(("engine", "version"), ALL, ids=str)
def test_a_shipped_table_says_where_it_is_from_and_names_each_flag_once(
    engine: EngineKind, version: tuple[int, ...]
) -> None:
    table = read_table(engine, version)
    assert table.source["distribution"].startswith((engine, f"{engine}_cpu"))
    assert table.version in table.source["distribution"]
    assert len(table.source["sha256"]) == 64
    spellings = [spelling for flag in table.flags for spelling in flag.spellings]
    assert len(spellings) == len(set(spellings))
    # Choices and defaults that were not understood would be wrong for nearly all flags at once.
    assert {flag.kind for flag in table.flags} == {"switch", "bool", "int", "float", "text", "json"}


@pytest.mark.parametrize("version", known_versions("vllm"), ids=str)
def test_a_flag_is_called_dead_in_exactly_the_versions_that_lack_it(version: tuple[int, int]) -> None:
    table = read_table("vllm", version)
    for dead in DEAD_FLAGS:
        assert (dead.name not in table.by_spelling) == (version >= dead.gone), dead.name


@pytest.mark.parametrize("version", known_versions("vllm"), ids=str)
def test_what_we_say_of_flags_is_said_of_flags_that_the_version_has(version: tuple[int, int]) -> None:
    table = read_table("vllm", version)
    assert {*SPEC_KEYS, *OURS} <= set(table.by_spelling)
    for short, flag in SHORT.items():
        assert table.by_spelling[short].name == flag
