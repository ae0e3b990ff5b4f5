"""The rendered quickstart, run with the transformers of the engine's environment on the tiny checkpoint."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tri_serve.checkpoint.tiny import export_tiny
from tri_serve.launch.environment import EngineEnvironment
from tri_serve.launch.inherited import inherited_environment
from tri_serve.launch.quickstart import QUESTION, quickstart
from tri_serve.spec.load import load_spec

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


def test_the_script_prints_the_answer_and_nothing_of_the_prompt(
    engine_environment: EngineEnvironment, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "tiny"
    export_tiny("bf16", checkpoint)
    sets = [f"model.source={checkpoint}", "engine.device=cpu"]
    script = tmp_path / "quickstart.py"
    script.write_text(
        quickstart(load_spec("tri-tiny-bf16", [], {}, sets).spec, command="tri-serve render quickstart")
    )
    done = subprocess.run(
        [str(engine_environment.python), str(script)],
        capture_output=True,
        text=True,
        env=inherited_environment(os.environ) | {"PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = done.stdout.strip()
    assert answer
    assert QUESTION not in answer
    assert "<|" not in answer
