"""One HTTP request over a UNIX socket, with a JSON body: how the gateway's admin API is spoken to."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from tri_serve.errors import ConnectionFailedError


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def unix_request(path: Path, method: str, target: str, body: object = None, *, timeout: float = 5.0) -> Any:
    """The decoded JSON answer. Raises ConnectionFailedError if there is none, or it is an error."""
    connection = _UnixConnection(path, timeout)
    try:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"} if data is not None else {}
        connection.request(method, target, data, headers)
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionFailedError(
            f"{method} {target} on {path}: {error or type(error).__name__}"
        ) from error
    finally:
        connection.close()
    if response.status >= 300:
        text = answer.decode(errors="replace").strip()[:200]
        raise ConnectionFailedError(
            f"{method} {target} on {path}: status {response.status} {text}", status=response.status
        )
    try:
        return json.loads(answer) if answer.strip() else None
    except ValueError as error:
        raise ConnectionFailedError(f"{method} {target} on {path}: the answer is not JSON") from error
