from __future__ import annotations

from pathlib import Path

import pytest

from tri_serve.engine.log_facts import LogFacts

PREFIX = "(EngineCore pid=1) INFO 11-23 07:07:25 [x.py:1] "


@pytest.mark.parametrize("device", ["GPU", "CPU"])
def test_the_kv_cache_s_tokens_are_read_in_either_wording(tmp_path: Path, device: str) -> None:
    facts = LogFacts(tmp_path / "log")
    (tmp_path / "log").write_text(f"{PREFIX}{device} KV cache size: 419,328 tokens, Maximum concurrency …\n")
    facts.read()
    assert facts.kv_cache_tokens == 419_328


def test_the_kernel_is_read(tmp_path: Path) -> None:
    facts = LogFacts(tmp_path / "log")
    (tmp_path / "log").write_text(f"{PREFIX}Using CPUWNA16LinearKernel for mixed-precision linear\n")
    facts.read()
    assert facts.linear_kernel == "CPUWNA16LinearKernel"


def test_what_an_earlier_engine_wrote_into_the_log_does_not_count(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"{PREFIX}CPU KV cache size: 1 tokens\n")
    facts = LogFacts(log)
    facts.read()
    assert facts.kv_cache_tokens is None


def test_a_line_that_arrives_in_two_pieces_is_read_whole(tmp_path: Path) -> None:
    log = tmp_path / "log"
    facts = LogFacts(log)
    log.write_text(f"{PREFIX}Starting to load")
    facts.read()
    assert not facts.loading
    with log.open("a") as file:
        file.write(" model x...\n")
    facts.read()
    assert facts.loading
