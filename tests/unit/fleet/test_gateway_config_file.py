"""What a gateway process is told, on a good disk and on a full one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tri_serve.fleet.gateway_process import config_file


def test_the_configuration_is_a_private_file(tmp_path: Path) -> None:
    path, memory = config_file(tmp_path / "gateway.json", "{}")
    assert (path, memory) == (tmp_path / "gateway.json", None)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_disk_that_takes_nothing_does_not_keep_a_gateway_from_starting(tmp_path: Path) -> None:
    path, memory = config_file(tmp_path / "gone" / "gateway.json", '{"key": "값"}')
    assert memory is not None
    try:
        code = "import pathlib, sys; sys.stdout.buffer.write(pathlib.Path(sys.argv[1]).read_bytes())"
        read = subprocess.run(
            [sys.executable, "-c", code, str(path)], pass_fds=(memory,), capture_output=True, check=True
        )
    finally:
        os.close(memory)
    assert read.stdout.decode() == '{"key": "값"}'
