"""Notes of presets: once for each user, wherever they are read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tri_serve.cli.main import run
from tri_serve.cli.notices import print_notices

Capture = pytest.CaptureFixture[str]
Shown = Callable[..., list[str]]

TERMS = "research purposes"


@pytest.fixture
def shown(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What of some notes is written to stderr, a terminal or not."""
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}

    def show(*notes: str, terminal: bool, always: bool = False) -> list[str]:
        with monkeypatch.context() as context:
            context.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
            print_notices(notes, always=always, environ=environ)
        said = capsys.readouterr()
        assert said.out == ""
        return [line.removeprefix("note: ") for line in said.err.splitlines()]

    return show


def test_what_was_shown_at_a_terminal_is_not_shown_again(shown: Shown) -> None:
    assert shown("a", "b", terminal=True) == ["a", "b"]
    assert shown("a", "b", terminal=True) == []
    assert shown("a", "b", terminal=False) == []


def test_what_a_script_swallowed_is_still_shown_at_a_terminal_and_to_no_script_again(shown: Shown) -> None:
    assert shown("a", terminal=False) == ["a"]
    assert shown("a", terminal=False) == []
    assert shown("a", terminal=True) == ["a"]
    assert shown("a", terminal=True) == []


def test_other_words_are_another_note(shown: Shown) -> None:
    assert shown("a", terminal=True) == ["a"]
    assert shown("a", "changed", terminal=True) == ["changed"]


def test_a_note_that_is_always_shown_is_remembered_too(shown: Shown) -> None:
    assert shown("a", terminal=True, always=True) == ["a"]
    assert shown("a", terminal=True, always=True) == ["a"]
    assert shown("a", terminal=True) == []


def test_a_place_that_cannot_be_written_is_no_error(shown: Shown, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a folder")
    assert shown("a", terminal=True) == ["a"]
    assert shown("a", terminal=True) == ["a"]


def test_who_has_no_home_is_shown_it_each_time(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    print_notices(["a"], environ={})
    assert capsys.readouterr().err == "note: a\n"


@pytest.mark.parametrize(
    "command",
    [
        ["plan", "show", "tri-21b-awq", "--gpu", "l4"],
        ["plan", "compare", "l4,h100", "tri-21b-awq"],
        ["plan", "sweep", "tri-21b-awq", "--gpu", "l4", "--vary", "max_model_len=2048,4096"],
        ["config", "show", "tri-21b-awq", "--set", "model.source=/srv/tri"],
        *(
            ["render", form, "tri-21b-awq", "--set", "model.source=/srv/tri"]
            for form in ("shell", "env", "compose", "systemd", "quickstart")
        ),
    ],
)
def test_the_first_command_that_uses_a_preset_shows_its_terms_and_the_next_does_not(
    command: list[str], capsys: Capture
) -> None:
    assert run(command) == 0
    first = capsys.readouterr()
    assert " ".join(first.err.split()).count(TERMS) == 1
    assert run(command) == 0
    second = capsys.readouterr()
    assert TERMS not in " ".join(second.err.split())
    assert second.out == first.out
    assert run(["plan", "show", "tri-21b-bf16", "--gpu", "h100"]) == 0
    assert TERMS not in " ".join(capsys.readouterr().err.split())


def test_what_is_asked_for_shows_them_each_time(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run(["presets"]) == 0
        assert TERMS in " ".join(capsys.readouterr().out.split())
        assert run(["init", "tri-21b-awq", "--force"]) == 0
        assert TERMS in " ".join(capsys.readouterr().err.split())
    assert run(["plan", "show", "tri-21b-awq", "--gpu", "l4"]) == 0
    assert TERMS not in " ".join(capsys.readouterr().err.split())


def test_what_this_plan_is_of_is_said_each_time(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for _ in range(2):
        assert run(["plan", "show", "tri-21b-awq"]) == 0
        assert "no NVIDIA GPU is here" in capsys.readouterr().err
