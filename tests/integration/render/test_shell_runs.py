"""The rendered script, run by a real shell with a program in the engine's place that says what it was given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tri_serve.launch.standalone import standalone_launch
from tri_serve.render.shell import shell_script
from tri_serve.spec.load import load_spec

SAYS = f"""#!{sys.executable}
import json, os, sys
print(json.dumps({{"argv": sys.argv[1:], "env": dict(os.environ), "pid": os.getpid()}}))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(SAYS)
    program.chmod(0o755)
    return tmp_path


def run(
    folder: Path, *arguments: str, sets: tuple[str, ...] = (), texts: tuple[str, ...] = (), **environ: str
) -> subprocess.CompletedProcess[str]:
    given = ["model.source=trillionlabs/Tri-21B", *sets]
    spec = load_spec("tri-21b-awq", [], {}, given, list(texts)).spec
    script = folder / "serve.sh"
    script.write_text(shell_script(spec, standalone_launch(spec), command="tri-serve render shell"))
    return subprocess.run(
        ["/bin/sh", str(script), *arguments],
        env={"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def said(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


HARD = "a b 'c' \"d\" $HOME `id` \\ * ~ #e 한국어"


def test_the_engine_gets_every_argument_and_variable_as_it_was_meant(folder: Path) -> None:
    found = said(
        run(
            folder,
            "--seed",
            "7",
            sets=(f"engine.extra_args=['--chat-template', {json.dumps(HARD)}]",),
            texts=(f"engine.env.X={HARD}",),
        )
    )
    assert found["argv"][:2] == ["serve", "trillionlabs/Tri-21B"]
    assert found["argv"][-4:] == ["--chat-template", HARD, "--seed", "7"]
    assert found["env"]["X"] == HARD
    assert found["env"]["VLLM_NO_USAGE_STATS"] == "1"


def test_secrets_are_read_from_a_file_and_nothing_in_it_is_run(folder: Path) -> None:
    secrets = folder / "secrets.env"
    secrets.write_text(f"# mine\n\nVLLM_API_KEY=$(touch {folder}/ran) 'q' \\x=\nHF_TOKEN=hf_1")
    found = said(run(folder, sets=("engine.env.HF_TOKEN=other",), SECRETS_FILE=str(secrets)))
    assert found["env"]["VLLM_API_KEY"] == f"$(touch {folder}/ran) 'q' \\x="
    assert found["env"]["HF_TOKEN"] == "hf_1"
    assert not (folder / "ran").exists()


def test_a_secret_that_the_spec_names_must_be_there(folder: Path) -> None:
    done = run(folder, sets=("engine.env.HF_TOKEN=hunter2",))
    assert done.returncode != 0
    assert "HF_TOKEN: is not set" in done.stderr
    assert (
        said(run(folder, sets=("engine.env.HF_TOKEN=hunter2",), HF_TOKEN="hf_2"))["env"]["HF_TOKEN"] == "hf_2"
    )
