"""``tri-serve plan`` with options that it must not take, or not show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tri_serve.cli.main import run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No spec, no GPU and no measurements of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


@pytest.mark.parametrize("form", [[], ["--json"], ["--html", "plan.html"]])
@pytest.mark.parametrize(
    ("secret", "code"),
    [
        ("engine.env.HF_TOKEN=hunter2", 0),
        ("engine.env.HF_TOKEN =hunter2", 0),
        ("engine.env.HTTPS_PROXY=http://user:hunter2@proxy", 0),
        ("engine.extra_args=[--api-key=hunter2, --swap-space=4]", 12),
    ],
)
def test_no_secret_is_printed(secret: str, code: int, form: list[str], capsys: Capture) -> None:
    assert run(["plan", "show", "tri-21b-awq", "--gpu", "l4", "--set", secret, *form]) == code
    said = capsys.readouterr()
    page = Path("plan.html").read_text(encoding="utf-8") if form[:1] == ["--html"] else ""
    assert "hunter2" not in said.out + said.err + page
    if not form:
        assert "********" in said.out


def test_a_sweep_shows_no_secret(capsys: Capture) -> None:
    vary = "source=http://user:hunter2@host"
    assert run(["plan", "sweep", "tri-21b-awq", "--gpu", "l4", "--vary", vary, "--json"]) == 0
    assert "hunter2" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["--context", "10000000000"], "--context 10000000000: max_model_len allows 8192 tokens"),
        (["--context", "1024,8193"], "--context 8193: max_model_len allows 8192 tokens"),
        (["--context", "32768", "--set", "model.max_model_len=8192"], "--context 32768: max_model_len allows 8192"),
        (["--context", "9" * 5000], "takes a whole number of tokens"),
        (["--context", "9" * 400 + "k"], "takes a whole number of tokens"),
        (["--request-rate", "1e308"], "no load; from 1e-06 to 1,000,000 is"),
        (["--request-rate", "1", "--price", "1e308"], "is no price"),
    ],
)  # fmt: skip
def test_a_number_that_nothing_can_be_planned_for_is_refused_in_one_line(
    option: list[str], says: str, capsys: Capture
) -> None:
    assert run(["plan", "show", "tri-21b-awq", "--gpu", "l4", *option]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert said.out == ""


def test_the_longest_context_that_is_allowed_is_planned_for(capsys: Capture) -> None:
    assert run(["plan", "show", "tri-21b-awq", "--gpu", "l4", "--context", "8K"]) == 0


@pytest.mark.parametrize(
    "asked", [["--context", "8000"], ["--request-rate", "1", "--input-len", "8000", "--output-len", "100"]]
)
def test_no_change_is_tried_that_rules_out_what_is_asked_about(asked: list[str], capsys: Capture) -> None:
    # With room for one user only, half the context is what would otherwise be advised.
    little = ["--set", "engine.gpu_memory_utilization=0.66"]
    assert run(["plan", "show", "tri-21b-awq", "--gpu", "l4", *little]) == 0
    assert "max_model_len=4096" in capsys.readouterr().out
    assert run(["plan", "show", "tri-21b-awq", "--gpu", "l4", *little, *asked]) == 0
    assert "max_model_len=4096" not in capsys.readouterr().out
