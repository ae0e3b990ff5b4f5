"""A hub on this machine: the routes that a download takes, and what can go wrong on them.

huggingface_hub itself downloads from it in one of the tests, so it speaks as the real one does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "owner/name"
LARGE = (".safetensors", ".bin")
"""Kept outside git, and given out by another host."""


@dataclass
class FakeHub:
    """What it has and how it behaves; tests change it as they go."""

    files: dict[str, bytes]
    port: int = 0
    gated: bool = False
    """Whether files need the token ``hf_good``."""
    private: bool = False
    cut_after: list[int] = field(default_factory=list)
    """Bytes after which the next answers with large files break off."""
    stall_after: list[int] = field(default_factory=list)
    """Bytes after which the next answers with large files fall silent, until ``wake`` is set."""
    wake: threading.Event = field(default_factory=threading.Event)
    busy: int = 0
    """So many requests are answered with 503."""
    ranges: bool = True
    wrong_byte: bool = False
    is_no_hub: bool = False
    forbidding: dict[str, str] | None = None
    """Headers with which everything is forbidden, if any."""
    endless: bool = False
    """Whether its list of files has no end."""
    siblings: object = None
    """What it says of its files, if not the truth."""
    location: str | None = None
    """Where the large files are said to be, if not where they are."""
    sent: int = 0
    """Bytes of such a list."""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method and path, and what the request's Range said."""
    authorised: list[str] = field(default_factory=list)
    """Paths of requests that carried a token."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()

    def oid(self, name: str) -> str:
        content = self.files[name]
        return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()

    def blob(self, name: str) -> str:
        return self.sha256(name) if name.endswith(LARGE) else self.oid(name)

    def ranges_asked(self) -> list[str | None]:
        """Of the large files' bytes."""
        return [asked for method, path, asked in self.asked if method == "GET" and path.startswith("/cdn/")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        path = unquote(url.path)
        hub.asked.append((self.command, path, self.headers.get("Range")))
        if self.headers.get("Authorization"):
            hub.authorised.append(path)
        if hub.is_no_hub:
            self._answer(200, b"<html>sign in to the hotel's network</html>")
        elif hub.forbidding is not None:
            self._answer(403, b"", hub.forbidding)
        elif hub.busy:
            hub.busy -= 1
            self._answer(503, b"", {"Retry-After": "0"})
        elif match := re.fullmatch(r"/cdn/([0-9a-f]{64})", path):
            self._bytes(next(name for name in hub.files if hub.sha256(name) == match[1]))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path):
            self._about(match[1], match[2], match[3])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], match[2], match[3])
        else:
            self._answer(404, b"")

    def _known(self, repository: str, revision: str | None) -> bool:
        if self._token() == "hf_unknown":
            said = {"X-Error-Message": "Invalid credentials in Authorization header"}
            self._answer(401, b"", said)
        elif repository != REPOSITORY or (self.hub.private and self._token() != "hf_good"):
            self._answer(404 if self._token() else 401, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in (None, "main", "v1/beta", COMMIT):
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            return True
        return False

    def _about(self, repository: str, what: str | None, revision: str | None) -> None:
        if not self._known(repository, revision):
            return
        hub = self.hub
        if hub.endless:
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                while not hub.wake.is_set():
                    self.wfile.write(b" " * 2**16)
                    hub.sent += 2**16
            return
        entries = []
        for name, content in hub.files.items():
            large = {
                "oid": hub.sha256(name),
                "sha256": hub.sha256(name),
                "size": len(content),
                "pointerSize": 130,
            }
            entries.append(
                {
                    "type": "file",
                    "path": name,
                    "rfilename": name,
                    "size": len(content),
                    "oid": hub.oid(name),
                    "blobId": hub.oid(name),
                }
                | ({"lfs": large} if name.endswith(LARGE) else {})
            )
        said = hub.siblings or entries
        about: object = entries if what == "tree" else {"id": repository, "sha": COMMIT, "siblings": said}
        self._answer(200, json.dumps(about).encode())

    def _resolve(self, repository: str, revision: str, name: str) -> None:
        hub = self.hub
        if not self._known(repository, revision):
            return
        if hub.gated and self._token() != "hf_good":
            self._answer(403 if self._token() else 401, b"", {"X-Error-Code": "GatedRepo"})
        elif name not in hub.files:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif name.endswith(LARGE):
            size = str(len(hub.files[name]))
            headers = {
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{hub.sha256(name)}"',
                "X-Linked-Size": size,
                # Another host, as the real one's: the token must not go there.
                "Location": hub.location or f"http://localhost:{hub.port}/cdn/{hub.sha256(name)}?signature=s",
            }
            self._answer(302, b"", headers)
        else:
            self._bytes(name, {"X-Repo-Commit": COMMIT, "ETag": f'"{hub.oid(name)}"'})

    def _bytes(self, name: str, headers: dict[str, str] | None = None) -> None:
        hub = self.hub
        content = hub.files[name]
        if hub.wrong_byte and name.endswith(LARGE):
            content = content[:-1] + bytes([content[-1] ^ 1])
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(match[1]) if match and hub.ranges else 0
        if self.command == "GET" and name.endswith(LARGE) and hub.cut_after:
            end = start + hub.cut_after.pop(0)
        else:
            end = len(content)
        silent = self.command == "GET" and name.endswith(LARGE) and bool(hub.stall_after)
        if silent:
            end = start + hub.stall_after.pop(0)
        status = 206 if start else 200
        self._answer(status, content[start:end], headers or {}, claimed=len(content) - start)
        if silent:
            self.wfile.flush()
            hub.wake.wait(30)

    def _token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, *, claimed: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        length = len(body) if claimed is None else claimed
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
            if length > len(body):
                self.close_connection = True


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub that has a small checkpoint, with the environment that leads to it and to an empty cache."""
    from tri_serve.checkpoint.tiny.derive import SOURCE

    wanted = {file.name: file.read_bytes() for file in SOURCE.iterdir() if file.is_file()}
    found = FakeHub(
        wanted
        | {
            "README.md": b"about it",
            "LICENSE": b"for research",
            "pytorch_model.bin": b"a pickle",
            "modeling_own.py": b"raise SystemExit",
            "original/consolidated.00.safetensors": b"once more",
        }
    )
    handler = type("Handler", (_Handler,), {"hub": found})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", found.endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    try:
        yield found
    finally:
        found.wake.set()
        server.shutdown()
        server.server_close()
        thread.join()
