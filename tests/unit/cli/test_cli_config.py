"""init, presets, schema, config show."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from tri_serve.cli.main import run
from tri_serve.spec.preset import preset_names

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, an 80-column terminal, and no variables of ours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in list(os.environ):
        if name.startswith("TRI_SERVE_"):
            monkeypatch.delenv(name)
    return tmp_path


def shown(capsys: Capture, *arguments: str) -> dict[str, dict[str, object]]:
    """What `config show` prints as JSON."""
    assert run(["config", "show", "--json", *arguments]) == 0
    spec: dict[str, dict[str, object]] = json.loads(capsys.readouterr().out)
    return spec


def test_init_writes_a_file_that_config_show_reads(folder: Path, capsys: Capture) -> None:
    assert run(["init", "tri-tiny-gptq"]) == 0
    assert (folder / "tri-serve.yaml").exists()
    assert "tri-serve up" in capsys.readouterr().err
    assert shown(capsys)["model"]["source"] == "tiny:gptq"


def test_init_touches_no_existing_file_unless_forced(folder: Path, capsys: Capture) -> None:
    path = folder / "tri-serve.yaml"
    path.write_text("mine")
    path.chmod(0o640)
    assert run(["init"]) == 2
    assert path.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert run(["init", "--force"]) == 0
    assert "preset: tri-tiny-awq" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(folder.iterdir()) == [path]


def test_init_does_not_follow_a_dangling_link(folder: Path) -> None:
    (folder / "tri-serve.yaml").symlink_to(folder / "elsewhere")
    assert run(["init"]) == 2
    assert not (folder / "elsewhere").exists()


def test_init_can_write_to_stdout(folder: Path, capsys: Capture) -> None:
    assert run(["init", "--output", "-"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["preset"] == "tri-tiny-awq"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_init_into_a_folder_that_is_not_there_names_the_file(force: list[str], capsys: Capture) -> None:
    assert run(["init", "--output", "nope/x.yaml", *force]) == 1
    assert capsys.readouterr().err == "error: nope/x.yaml: No such file or directory\n"


def test_init_of_the_large_model_says_what_is_left_to_do(capsys: Capture) -> None:
    assert run(["init", "tri-21b-awq"]) == 0
    errors = capsys.readouterr().err
    assert "set model.source" in errors
    assert "research" in errors


def test_an_unknown_preset_ends_with_the_spec_errors_code(capsys: Capture) -> None:
    assert run(["init", "tri-tiny-awk"]) == 10
    assert "the nearest is tri-tiny-awq" in capsys.readouterr().err


def test_presets_lists_them_all_with_their_terms(capsys: Capture) -> None:
    assert run(["presets"]) == 0
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines()[1 : 1 + len(preset_names())]] == list(
        preset_names()
    )
    assert "research purposes" in text
    assert run(["presets", "--json"]) == 0
    listed = {preset["name"]: preset for preset in json.loads(capsys.readouterr().out)}
    assert set(listed) == set(preset_names())
    assert "model.source" in listed["tri-21b-awq"]["needs"]
    assert run(["presets", "-o", "yaml"]) == 0
    assert len(yaml.safe_load(capsys.readouterr().out)) == len(preset_names())


def test_schema_prints_json_alone(capsys: Capture) -> None:
    assert run(["schema"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["title"] == "tri-serve.yaml"
    assert captured.err == ""


def test_the_file_of_the_working_directory_is_read_unless_something_is_named(
    folder: Path, capsys: Capture
) -> None:
    (folder / "tri-serve.yaml").write_text("preset: tri-tiny-awq\ngateway: {port: 8001}\n")
    assert shown(capsys)["gateway"]["port"] == 8001
    assert shown(capsys, "tri-tiny-ct")["gateway"]["port"] == 8000
    (folder / "other.yaml").write_text("preset: tri-tiny-awq\ngateway: {port: 8002}\n")
    assert shown(capsys, "-f", "other.yaml")["gateway"]["port"] == 8002
    assert shown(capsys, "-f", "tri-serve.yaml", "-f", "other.yaml")["gateway"]["port"] == 8002


def test_options_can_be_given_as_variables(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.yaml").write_text("preset: tri-tiny-ct\n")
    (folder / "b.yaml").write_text("gateway: {port: 8002}\n")
    monkeypatch.setenv("TRI_SERVE_FILE", "a.yaml:b.yaml")
    monkeypatch.setenv("TRI_SERVE_CONFIG_SHOW_SET", "fleet.replicas=2")
    spec = shown(capsys)
    assert (spec["model"]["source"], spec["gateway"]["port"], spec["fleet"]["replicas"]) == (
        "tiny:ct",
        8002,
        2,
    )
    monkeypatch.delenv("TRI_SERVE_FILE")
    monkeypatch.setenv("TRI_SERVE_PRESET", "tri-tiny-bf16")
    assert shown(capsys)["model"]["source"] == "tiny:bf16"


def test_config_show_prints_a_file_that_loads_to_the_same_spec(folder: Path, capsys: Capture) -> None:
    arguments = [
        "--set",
        "engine.extra_args=[--a, 'b: c']",
        "--set",
        "engine.env.A=1",
        "--set",
        "gateway.port=8009",
    ]
    for origin in ([], ["--origin"]):
        assert run(["config", "show", *origin, *arguments]) == 0
        (folder / "copy.yaml").write_text(capsys.readouterr().out)
        assert shown(capsys, "-f", "copy.yaml") == shown(capsys, *arguments)


def test_config_show_origin_names_the_place_of_each_value(folder: Path, capsys: Capture) -> None:
    (folder / "tri-serve.yaml").write_text("preset: tri-tiny-awq\ngateway:\n  port: 8001\n")
    assert run(["config", "show", "--origin", "--set", "fleet.replicas=2"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "port: 8001  # tri-serve.yaml:3" in lines
    assert "replicas: 2  # --set" in lines
    assert "source: tiny:awq  # preset tri-tiny-awq" in lines
    assert "workers: 1  # default" in lines
    assert shown(capsys, "--origin")["gateway.port"] == {"value": 8001, "origin": "tri-serve.yaml:3"}
    assert run(["config", "show", "--origin", "-o", "table"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["gateway.port", "tri-serve.yaml:3", "8001"] in rows


@pytest.mark.parametrize("form", ["json", "yaml", "table"])
@pytest.mark.parametrize("origin", [[], ["--origin"]])
def test_no_form_of_config_show_prints_a_secret(form: str, origin: list[str], capsys: Capture) -> None:
    secret = ["--set", "engine.env.HF_TOKEN=hunter2", "--set", "engine.extra_args=[--api-key=hunter2]"]
    assert run(["config", "show", "-o", form, *origin, *secret]) == 0
    text = capsys.readouterr().out
    assert "HF_TOKEN" in text
    assert "********" in text
    assert "hunter2" not in text


def test_notes_of_a_preset_go_to_stderr(capsys: Capture) -> None:
    assert run(["config", "show", "tri-21b-awq", "--json", "--set", "model.source=/srv/m"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["model"]["source"] == "/srv/m"
    assert "research" in captured.err
    assert max(len(line) for line in captured.err.splitlines()) <= 80


def test_mistakes_of_a_file_end_with_10_and_one_line_each(folder: Path, capsys: Capture) -> None:
    (folder / "tri-serve.yaml").write_text("preset: tri-tiny-awq\ngateway:\n  prot: 1\n  port: 0\n")
    assert run(["config", "show"]) == 10
    assert capsys.readouterr().err.splitlines() == [
        "error: the spec has 2 mistakes:",
        "  tri-serve.yaml:3: gateway.prot: unknown key; the nearest is gateway.port",
        "  tri-serve.yaml:4: gateway.port: found the number 0; takes a whole number from 1 to 65535",
    ]
