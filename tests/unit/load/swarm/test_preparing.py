"""What is asked of the server before a load."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

import pytest

from tri_serve.errors import ConnectionFailedError
from tri_serve.load.swarm import preparing
from tri_serve.load.swarm.options import add_options


def test_a_server_that_hangs_ends_the_preparation_soon_and_it_is_said_what_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import configargparse  # type: ignore[import-untyped]

    parser = configargparse.ArgumentParser()
    add_options(parser)
    options: argparse.Namespace = parser.parse_args(["--results", str(tmp_path)])
    monkeypatch.setattr(preparing, "PREFLIGHT_SILENCE", 0.2)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConnectionFailedError, match=r"nothing came for 0\.2 s"):
            preparing.prepare(options, url, None, tell=said.append)
    assert said == [f"asking {url}/v1/models"]
