"""Where tables of fitted shares are kept, and which of them counts first."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tri_serve.errors import UsageError
from tri_serve.plan.calibration_table import (
    Calibration,
    CalibrationTable,
    load_tables,
    read_table,
    source_of,
    user_tables_dir,
    write_table,
)
from tri_serve.plan.result import Range


def make_table(machine: str, *, made: str = "2026-01-01T00:00:00Z") -> CalibrationTable:
    entry = Calibration(
        gpu="l4",
        engine="vllm",
        minor="0.32",
        quantization="awq",
        versions=("0.32.0",),
        tensor_parallel=(1,),
        overhead=Range(low=0.0, likely=0.001, high=0.002),
        points=1,
        provenance=("a test",),
    )
    return CalibrationTable(
        made=made,
        made_with="a test",
        model="a test",
        machine=machine,
        calibrations=(entry,),
    )


def test_a_table_reads_back_what_was_written_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "l4.json"
    write_table(make_table("here"), path)
    assert read_table(path) == make_table("here").model_copy(update={"file": str(path)})
    assert "file" not in json.loads(path.read_text())
    assert [file.name for file in path.parent.iterdir()] == ["l4.json"]


def test_files_that_were_named_count_before_the_users_own(tmp_path: Path) -> None:
    environ = {"XDG_DATA_HOME": str(tmp_path)}
    write_table(make_table("own"), user_tables_dir(environ) / "own.json")
    write_table(make_table("named"), tmp_path / "named.json")
    tables = load_tables([tmp_path / "named.json"], environ)
    assert [table.machine for table in tables][:2] == ["named", "own"]


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_of_ones_own_tables_the_youngest_counts_first(tmp_path: Path, names: tuple[str, str]) -> None:
    environ = {"XDG_DATA_HOME": str(tmp_path)}
    times = {"old": "2026-01-01T09:30:00+09:00", "new": "2026-01-01T00:30:01+00:00"}
    for name, (age, made) in zip(names, times.items(), strict=True):
        write_table(make_table(age, made=made), user_tables_dir(environ) / f"{name}.json")
    assert [table.machine for table in load_tables((), environ)][:2] == ["new", "old"]


def share(low: object, likely: object, high: object) -> dict[str, Any]:
    return {"low": low, "likely": likely, "high": high}


def knot(batch: int, shares: dict[str, Any], points: int = 1) -> dict[str, Any]:
    return {"batch": batch, "share": shares, "points": points}


GOOD = share(0.4, 0.5, 0.6)


@pytest.mark.parametrize(
    "change",
    [
        {"memory": [knot(1, share(0.0, 0.5, 0.6))]},
        {"memory": [knot(1, share(0.6, 0.5, 0.7))]},
        {"memory": [knot(1, share(0.4, 0.5, 1.1))]},
        {"memory": [knot(10**400, GOOD)]},
        {"memory": [knot(8, GOOD), knot(8, GOOD)]},
        {"memory": [knot(8, GOOD), knot(1, GOOD)]},
        {"memory": [knot(1, GOOD, 10**400)]},
        {"compute": share(0.1, 0.05, 0.6)},
        {"prefill": share(0.0, 0.0, 0.0)},
        {"prefill": share(0.1, math.nan, 0.6)},
        {"overhead": share(-0.1, 0.0, 0.1)},
        {"overhead": share(0.0, 0.1, math.inf)},
    ],
)
def test_a_table_of_what_cannot_be_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    data = json.loads(make_table("here").to_json())
    path = tmp_path / "made-by-hand.json"
    data["calibrations"][0] |= {"memory": [knot(1, GOOD), knot(8, GOOD)], "compute": GOOD, "prefill": GOOD}
    path.write_text(json.dumps(data))
    assert read_table(path).calibrations[0].compute is not None
    data["calibrations"][0] |= change
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match="is no calibration table: calibrations") as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


def test_a_table_says_when_it_was_made(tmp_path: Path) -> None:
    data = json.loads(make_table("here").to_json()) | {"made": "yesterday"}
    (tmp_path / "t.json").write_text(json.dumps(data))
    with pytest.raises(UsageError, match="is no calibration table: made: "):
        read_table(tmp_path / "t.json")


def test_a_user_without_tables_has_those_that_ship(tmp_path: Path) -> None:
    # Each of them must be readable, whichever there are.
    assert isinstance(load_tables(environ={"XDG_DATA_HOME": str(tmp_path)}), tuple)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no calibration table: Invalid JSON"),
        ('{"format": 2}', "is no calibration table: format: "),
        (
            make_table("x").to_json().replace('"gpu"', '"gpus"'),
            r"is no calibration table: calibrations\.0\.gpu: Field required",
        ),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        read_table(tmp_path / "table.json")
    assert "\n" not in str(caught.value)


def test_a_table_that_is_not_there_or_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_table(tmp_path / "none.json")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        source_of(tmp_path / "none.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_table(make_table("x"), tmp_path / "file" / "table.json")


def test_a_source_is_known_by_its_name_and_its_content(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(b"[]")
    source = source_of(tmp_path / "result.json")
    assert (source.file, source.sha256) == ("result.json", hashlib.sha256(b"[]").hexdigest())


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"", b"{}"])
def test_a_damaged_table_of_ones_own_is_left_out_and_named_once(tmp_path: Path, content: bytes) -> None:
    environ = {"XDG_DATA_HOME": str(tmp_path)}
    folder = user_tables_dir(environ)
    write_table(make_table("own"), folder / "own.json")
    (folder / "worse.json").write_bytes(content)
    told: list[str] = []
    assert load_tables((), environ, damaged=told.append)[0].machine == "own"
    (words,) = told
    assert words.startswith(f"{folder / 'worse.json'}: is no calibration table: ")
    assert words.endswith("; planned without it")
    assert "\n" not in words
    with pytest.raises(UsageError, match="is no calibration table"):
        load_tables([folder / "worse.json"], environ, damaged=told.append)
    with pytest.raises(UsageError, match="is no calibration table"):
        load_tables((), environ)
