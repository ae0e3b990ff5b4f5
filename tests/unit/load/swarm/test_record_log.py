"""The file of records: whole lines, and a disk that is full ends the file and not the run."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest

from tri_serve.load.records import Outcome, Record
from tri_serve.load.swarm import record_log
from tri_serve.load.swarm.record_log import RecordLog


class AtOnce:
    """Threads that are none."""

    def apply(self, func: Callable[..., Any], args: tuple[Any, ...] = ()) -> Any:
        return func(*args)


class FullAfter:
    """A disk that takes so many writes."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    def apply(self, func: Callable[..., Any], args: tuple[Any, ...] = ()) -> Any:
        if self.left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= 1
        return func(*args)


def record(index: int) -> Record:
    return Record(index, f"item-{index}", outcome=Outcome.OK, sent=5, event_times=[6, 7], event_tokens=[1, 2])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_header_comes_first_and_then_a_line_for_each_request(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "r.jsonl", {"format": 1}, "full", AtOnce())
    log.start()
    log.add(record(3))
    log.add(record(4))
    log.close()
    header, first, second = lines(tmp_path / "r.jsonl")
    assert header == {"format": 1}
    assert (first["index"], first["outcome"], first["event_times"], second["index"]) == (3, "ok", [6, 7], 4)
    assert (log.error, log.lost) == ("", 0)


def test_short_lines_leave_out_the_events(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "r.jsonl", {}, "short", AtOnce())
    log.start()
    log.add(record(3))
    log.close()
    kept = lines(tmp_path / "r.jsonl")[1]
    assert kept["sent"] == 5
    assert not [name for name in kept if name.startswith("event_")]


def test_no_file_is_made_where_none_is_wanted(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "r.jsonl", {}, "none", AtOnce())
    log.start()
    log.add(record(3))
    log.close()
    assert list(tmp_path.iterdir()) == []
    assert log.lost == 0


def test_a_full_disk_is_told_and_what_is_missing_is_counted(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "r.jsonl", {}, "full", FullAfter(1))
    log.start()
    log.add(record(3))
    log.add(record(4))
    log.close()
    log.add(record(5))
    assert log.error == f"{tmp_path / 'r.jsonl'}: No space left on device"
    assert log.lost == 3


class Filling:
    """A disk that turns out to be full while a batch is being written."""

    def __init__(self) -> None:
        self.calls = 0

    def apply(self, func: Callable[..., Any], args: tuple[Any, ...] = ()) -> Any:
        self.calls += 1
        if self.calls == 1:
            return func(*args)
        gevent.sleep(0.1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_becomes_of_a_batch_that_is_being_written_at_the_end_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_log, "_PERIOD", 0.01)
    disk = Filling()
    log = RecordLog(tmp_path / "r.jsonl", {}, "full", disk)
    log.start()
    log.add(record(3))
    while disk.calls < 2:
        gevent.sleep(0.005)
    log.close()
    assert log.error.endswith("No space left on device")
    assert log.lost == 1


def test_others_get_their_turn_while_a_large_batch_is_made_into_lines(tmp_path: Path) -> None:
    turns = 0

    def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    log = RecordLog(tmp_path / "r.jsonl", {}, "full", AtOnce())
    log.start()
    for index in range(80):
        log.add(record(index))
    counting = gevent.spawn(count)
    gevent.sleep(0)
    turns = 0
    log.close()
    counting.kill()
    assert turns >= 8
    assert len(lines(tmp_path / "r.jsonl")) == 81


def test_a_folder_that_cannot_be_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    log = RecordLog(tmp_path / "file" / "r.jsonl", {}, "full", AtOnce())
    log.start()
    log.add(record(3))
    log.close()
    assert log.error.startswith(str(tmp_path / "file"))
    assert log.lost == 1
