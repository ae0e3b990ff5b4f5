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
    vary = "revision=http://user:hunter2@host"
    assert run(["plan", "sweep", "tri-21b-awq", "--gpu", "l4", "--vary", vary, "--json"]) == 0
    assert "hunter2" not in capsys.readouterr().out
