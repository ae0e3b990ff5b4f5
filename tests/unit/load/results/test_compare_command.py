"""tri-serve load compare and report: files, folders of rounds, exit codes."""

from __future__ import annotations

import json

import pytest

from tri_serve.cli.main import run


@pytest.fixture(name="write")
def _write(tmp_path):
    def write(result, place):
        path = tmp_path / place / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(result.model_dump_json(), encoding="utf-8")
        return str(path.parent)

    return write


def test_a_regression_ends_with_3_and_names_itself(make_result, write, capsys):
    base, other = write(make_result("a"), "a"), write(make_result("b", slower=1.4), "b")
    assert run(["load", "compare", base, other]) == 3
    captured = capsys.readouterr()
    assert "REGRESSION" in captured.out
    assert "error: worse by more than chance" in captured.err
    assert run(["load", "compare", other, base]) == 0
    assert run(["load", "compare", base, other, "--allowed", "0.8"]) == 0


def test_every_later_result_is_laid_beside_the_first(make_result, write, capsys):
    paths = [
        write(make_result(name, slower=slower), name) for name, slower in (("a", 1), ("b", 1), ("c", 0.5))
    ]
    assert run(["load", "compare", *paths, "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(it["base"], it["other"]) for it in found] == [(["a"], ["b"]), (["a"], ["c"])]


def test_a_folder_of_rounds_stands_for_all_of_them(make_result, write, tmp_path, capsys):
    for side, slower in (("a", 1.0), ("b", 1.3)):
        for number in (1, 2, 3):
            write(make_result(f"{side}{number}", seed=number, slower=slower), f"{side}/round-{number}")
    assert run(["load", "compare", str(tmp_path / "a"), str(tmp_path / "b"), "-o", "json"]) == 3
    (found,) = json.loads(capsys.readouterr().out)
    assert found["by"] == "rounds"
    assert found["base"] == ["a1", "a2", "a3"]


def test_one_result_alone_is_refused(make_result, write, capsys):
    assert run(["load", "compare", write(make_result(), "a")]) == 2
    assert "one result alone" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{}", "no json", '{"format": 9}'])
def test_a_file_of_something_else_is_told_in_one_line(make_result, write, tmp_path, capsys, content):
    other = tmp_path / "other.json"
    other.write_text(content, encoding="utf-8")
    assert run(["load", "compare", write(make_result(), "a"), str(other)]) == 2
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {other}: not a result")


def test_a_folder_of_rounds_says_where_its_results_are(make_result, write, tmp_path, capsys):
    for number in (1, 2):
        write(make_result(f"r{number}", seconds=5.0), f"rounds/round-{number}")
    folder = tmp_path / "rounds"
    assert run(["load", "report", str(folder)]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: {folder}/result.json: No such file or directory"
    assert (
        hint == f"hint: it holds 2 runs, the first in {folder}/round-1; all of them: {folder}/*/result.json"
    )


def test_one_mistake_is_one(make_result, write, tmp_path, capsys):
    place = write(make_result(seconds=5.0), "a")
    path = tmp_path / "a" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processes": "two"}), encoding="utf-8")
    assert run(["load", "report", place]) == 2
    assert "(1 mistake)" in capsys.readouterr().err
