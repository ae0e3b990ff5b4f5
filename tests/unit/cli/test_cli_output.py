"""Tables and the options that commands share."""

from __future__ import annotations

import click
import pytest

from tri_serve.cli.main import run
from tri_serve.cli.options import output_option, release_option
from tri_serve.cli.output import display_width, table_lines, yaml_text


def test_columns_line_up_under_korean_text() -> None:
    lines = table_lines(["NAME", "X"], [["안녕", 1], ["ab", None]], width=None)
    assert lines == ["NAME  X", "안녕  1", "ab    -"]
    assert display_width("안녕") == 4


def test_the_last_column_wraps_on_a_terminal_and_stays_whole_in_a_pipe() -> None:
    rows = [["a", "one two three four five six seven"]]
    assert table_lines(["K", "V"], rows, width=25) == ["K  V", "a  one two three four", "   five six seven"]
    assert table_lines(["K", "V"], rows, width=None)[1] == "a  one two three four five six seven"


def test_yaml_keeps_order_and_korean() -> None:
    assert yaml_text({"b": "안녕", "a": [1]}) == "b: 안녕\na:\n- 1\n"


@click.command()
@release_option
@output_option()
def probe(release: str, output: str) -> None:
    click.echo(f"{release} {output}")


def invoked(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    probe.main(list(arguments), standalone_mode=False)
    return capsys.readouterr().out.strip()


def test_release_and_output_have_defaults_short_forms_and_variables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoked(capsys) == "tri table"
    assert invoked(capsys, "-r", "two", "-o", "yaml") == "two yaml"
    assert invoked(capsys, "--json") == "tri json"
    monkeypatch.setenv("TRI_SERVE_RELEASE", "three")
    monkeypatch.setenv("TRI_SERVE_OUTPUT", "yaml")
    assert invoked(capsys) == "three yaml"


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a" * 41, "a/b", "..", "a\n"])
def test_a_name_that_is_no_folder_or_label_is_refused(name: str) -> None:
    with pytest.raises(click.BadParameter, match="no release name"):
        probe.main(["-r", name], standalone_mode=False)


def test_a_release_name_may_have_40_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoked(capsys, "-r", "a" * 40) == f"{'a' * 40} table"


def test_an_unknown_form_of_output_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["presets", "-o", "xml"]) == 2
    assert "'table', 'json', 'yaml'" in capsys.readouterr().err
