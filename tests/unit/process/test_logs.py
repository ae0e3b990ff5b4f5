"""Logs of children: the last lines, and their size."""

from __future__ import annotations

import os
from pathlib import Path

from tri_serve.process.logs import open_log, rotate, tail


def test_tail_of_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert tail(tmp_path / "none", 5) == ()


def test_tail_skips_blank_lines_and_survives_broken_utf8(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes("안녕\n\n  \n".encode() + b"\xec\x95\n" + b"last")
    assert tail(log, 3) == ("안녕", "�", "last")


def test_tail_after_a_rotation_shows_the_new_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("new\n")
    assert tail(log, 3, since=10_000) == ("new",)


def test_a_small_log_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("x" * 100)
    assert rotate(log, 100) is False
    assert log.read_text() == "x" * 100


def test_a_large_log_keeps_its_end_aside_and_goes_on_empty(tmp_path: Path) -> None:
    log = tmp_path / "log"
    writer = open_log(log)
    os.write(writer, b"a" * 50 + b"b" * 100)
    assert rotate(log, 100) is True
    os.write(writer, b"after\n")
    os.close(writer)
    assert (tmp_path / "log.1").read_text() == "b" * 100
    assert log.read_bytes() == b"after\n"  # no hole: the writer appends


def test_a_new_log_is_private(tmp_path: Path) -> None:
    os.close(open_log(tmp_path / "deep" / "log"))
    assert (tmp_path / "deep" / "log").stat().st_mode & 0o777 == 0o600
