"""Where tables of fitted shares are kept, and which of them counts first."""

import hashlib
from pathlib import Path

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


def make_table(machine: str) -> CalibrationTable:
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
        made="2026-01-01T00:00:00Z",
        made_with="a test",
        model="a test",
        machine=machine,
        calibrations=(entry,),
    )


def test_a_table_reads_back_what_was_written_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "l4.json"
    write_table(make_table("here"), path)
    assert read_table(path) == make_table("here")
    assert [file.name for file in path.parent.iterdir()] == ["l4.json"]


def test_files_that_were_named_count_before_the_users_own(tmp_path: Path) -> None:
    environ = {"XDG_DATA_HOME": str(tmp_path)}
    for name in ("b", "a"):
        write_table(make_table(name), user_tables_dir(environ) / f"{name}.json")
    write_table(make_table("named"), tmp_path / "named.json")
    tables = load_tables([tmp_path / "named.json"], environ)
    assert [table.machine for table in tables][:3] == ["named", "a", "b"]


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
