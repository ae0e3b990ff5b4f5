"""The tiny checkpoint's own tokenizer: byte-level BPE of 1,024 entries, in which 한 and 日 are three tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

import tri_serve.checkpoint.tiny as tiny
from tri_serve.load.workload.tokenizer import FileTokenizer


@pytest.fixture(scope="session")
def tokenizer() -> FileTokenizer:
    assert tiny.__file__ is not None
    return FileTokenizer(Path(tiny.__file__).parent / "bf16" / "tokenizer.json")
