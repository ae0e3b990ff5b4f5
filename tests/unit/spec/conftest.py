"""What the tests of the spec room share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tri_serve.errors import SpecError
from tri_serve.spec.load import load_spec

WriteSpec = Callable[[str], Path]
Refusal = Callable[[str], SpecError]


@pytest.fixture
def write_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteSpec:
    """Writes a spec file into a folder that is the working directory, so that errors name it shortly."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        path = Path("tri-serve.yaml")
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def refusal(write_spec: WriteSpec) -> Refusal:
    """The error that a spec file of this text ends in."""

    def load(text: str) -> SpecError:
        path = write_spec(text)
        with pytest.raises(SpecError) as caught:
            load_spec(None, [path], {})
        return caught.value

    return load
