"""The Hugging Face hub, as far as a checkpoint needs it: what a repository holds, and its bytes from any offset.

Plain HTTP by ``requests``, which honours HTTPS_PROXY, NO_PROXY and REQUESTS_CA_BUNDLE. The hub's own client is not
used: since its pull request 4228 it throws a file that was interrupted away, which of a checkpoint in one file is
all of it, and it compares no checksums. Routes: https://huggingface.co/docs/hub/api.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import requests
from requests.auth import AuthBase

from tri_serve import __version__
from tri_serve.errors import CheckpointError, ConnectionFailedError
from tri_serve.spec.secrets import mask_urls

ENDPOINT = "https://huggingface.co"
_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 30.0
"""How long a server may say nothing in the middle of a file."""
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_ATTEMPTS = 5
_MOST_PAUSE = 30.0
_LONGEST_TOKEN = 4096
_LARGEST_FILE = 2**60
_LARGEST_LIST = 64 * 2**20
"""Bytes of a repository's list of files: some 150,000 files of about 400 bytes each."""
_CHUNK = 2**16


@dataclass(frozen=True)
class HubFile:
    """One file of a repository."""

    name: str
    """Its path in the repository."""
    size: int
    blob: str
    """Names its content: the SHA-256 of a large file, else the object id that git gives it."""
    large: bool
    """Whether it is kept outside git (LFS or Xet); such a file's ``blob`` is its SHA-256."""


@dataclass(frozen=True)
class HubRevision:
    """What a repository held at one commit."""

    repository: str
    commit: str
    files: tuple[HubFile, ...]


@dataclass(frozen=True)
class Token:
    """What says who asks. Never printed."""

    value: str
    origin: str
    """Where it was found, for people: a variable or a file."""

    def __repr__(self) -> str:
        return f"Token({self.origin})"


def find_token(environ: Mapping[str, str]) -> Token | None:
    """The user's token where the hub's own tools keep it: HF_TOKEN, or the file that ``hf auth login`` writes.

    Raises CheckpointError, without showing it, if what is there can be no token.
    """
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if value := environ.get(name, "").strip():
            return _token(value, name)
    if environ.get("HF_TOKEN_PATH"):
        file = Path(environ["HF_TOKEN_PATH"]).expanduser()
    else:
        cache = Path(environ["XDG_CACHE_HOME"]) if environ.get("XDG_CACHE_HOME") else Path.home() / ".cache"
        home = Path(environ["HF_HOME"]).expanduser() if environ.get("HF_HOME") else cache / "huggingface"
        file = home / "token"
    try:
        value = file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    return _token(value, str(file)) if value else None


def _token(value: str, origin: str) -> Token:
    # It becomes part of a header, which takes no line break, and whose error would quote it.
    if len(value) > _LONGEST_TOKEN or not re.fullmatch(r"[!-~]+", value):
        raise CheckpointError(
            f"{origin} holds no token: one is letters, digits and signs of ASCII, without blanks or line breaks",
            hint=f"copy it once more from {ENDPOINT}/settings/tokens",
        )
    return Token(value, origin)


class Hub:
    """A hub that answers questions. One for each thread: connections are kept."""

    def __init__(self, environ: Mapping[str, str], *, pause: Callable[[float], None] = time.sleep) -> None:
        """Raises ConnectionFailedError if ``environ`` names certificates that are not there, and CheckpointError if
        what it has as a token is none."""
        self._address = (environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
        self.endpoint = mask_urls(self._address)
        """Which hub, for people."""
        self.token = find_token(environ)
        self.pause = pause
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"tri-serve/{__version__}"
        # Ranges of a compressed body are no ranges of the file.
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.auth = _Bearer(self.token)
        for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            if file := environ.get(variable):
                if not Path(file).exists():
                    raise ConnectionFailedError(f"{variable} names {file}, which is not there")
                self._session.verify = file
                break

    def look_up(self, repository: str, revision: str | None) -> HubRevision:
        """What ``repository`` holds now at that branch, tag or commit (None: ``main``).

        Raises CheckpointError if it is not there or may not be seen, ConnectionFailedError if the hub cannot be
        reached.
        """
        wanted = revision or "main"
        path = f"/api/models/{repository}/revision/{quote(wanted, safe='')}?blobs=true"
        text = self._get(path, repository, wanted)
        try:
            found: Any = json.loads(text)
            files = tuple(_file(entry) for entry in found["siblings"])
            commit = str(found["sha"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConnectionFailedError(
                f"{self.endpoint} answered for {repository} with something that is no list of files",
                hint="HF_ENDPOINT, or a proxy, leads to something that is no hub",
            ) from error
        return HubRevision(repository, commit, files)

    def open(self, repository: str, commit: str, file: HubFile, start: int) -> requests.Response:
        """The bytes of ``file`` from ``start`` on, to be streamed; a status of 200 says that they begin at 0.

        Raises as ``look_up`` does, and requests' own errors where the connection fails: the caller tries again.
        """
        path = f"/{repository}/resolve/{commit}/{quote(file.name)}"
        headers = {"Range": f"bytes={start}-"} if start else {}
        reply = self._ask(path, headers)
        if reply.status_code not in (200, 206):
            with reply:
                self._refuse(reply, repository, commit, file.name)
        return reply

    def _get(self, path: str, repository: str, revision: str) -> bytes:
        """What is there, as far as it is a list that could be one of files."""
        body = b""
        for attempt in range(_ATTEMPTS):
            try:
                with self._ask(path) as reply:
                    if reply.status_code == 200:
                        body = self._body(reply, repository)
            except requests.RequestException as error:
                raise explain(error, self.endpoint) from error
            if reply.status_code not in _BUSY or attempt == _ATTEMPTS - 1:
                break
            self.pause(pause_seconds(reply, attempt))
        if reply.status_code != 200:
            self._refuse(reply, repository, revision, None)
        return body

    def _body(self, reply: requests.Response, repository: str) -> bytes:
        body = bytearray()
        for chunk in reply.iter_content(_CHUNK):
            body += chunk
            if len(body) > _LARGEST_LIST:
                raise ConnectionFailedError(
                    f"{self.endpoint} answered for {repository} with more than {_LARGEST_LIST:,} bytes, which is "
                    "no list of files",
                    hint="HF_ENDPOINT, or a proxy, leads to something that is no hub",
                )
        return bytes(body)

    def _ask(self, path: str, headers: Mapping[str, str] | None = None) -> requests.Response:
        """The answer's head; its body is to be streamed. Raises requests' own errors, and ConnectionFailedError for
        an address that none can be reached at, which trying again does not change."""
        try:
            return self._session.get(
                self._address + path,
                headers=headers,
                stream=True,
                timeout=(_CONNECT_SECONDS, _SILENCE_SECONDS),
            )
        except requests.exceptions.InvalidURL as error:
            raise self._no_address() from error
        except requests.RequestException:
            raise
        # Of the parsers below requests, which it does not catch: Location comes from the other side.
        except ValueError as error:
            raise self._no_address() from error

    def _no_address(self) -> ConnectionFailedError:
        return ConnectionFailedError(
            f"{self.endpoint} is no address, or leads on to something that is none",
            hint="check HF_ENDPOINT; a proxy may answer in the hub's place",
        )

    def _refuse(self, reply: requests.Response, repository: str, revision: str, file: str | None) -> NoReturn:
        """Raise what the hub's refusal means. Its X-Error-Code says more than its status."""
        code, status = reply.headers.get("X-Error-Code", ""), reply.status_code
        page = f"{self.endpoint}/{repository}"
        if status in _BUSY:
            raise BusyError(reply, f"{self.endpoint} answered {status} ({reply.reason})")
        if reply.headers.get("X-Error-Message") == "Invalid credentials in Authorization header":
            origin = self.token.origin if self.token else "the request"
            raise CheckpointError(
                f"{self.endpoint} does not know the token in {origin}",
                hint=f"make a new one at {self.endpoint}/settings/tokens and set HF_TOKEN to it",
            )
        if code == "GatedRepo":
            if self.token is None:
                hint = f"accept the terms at {page}, then set HF_TOKEN to a token of that account"
            else:
                hint = (
                    f"accept the terms at {page} with the account of the token in {self.token.origin}; a "
                    "fine-grained token also needs access to public gated repositories"
                )
            raise CheckpointError(
                f"{repository} is gated: its owner lets only those have it who accepted its terms", hint=hint
            )
        if code == "RevisionNotFound":
            raise CheckpointError(
                f"{repository} has no revision {revision}", hint=f"those that it has are at {page}/tree/main"
            )
        if code == "EntryNotFound":
            raise CheckpointError(f"{repository} has no file {file} at {revision}")
        if code == "RepoNotFound" or status in (401, 404):
            asked = f"asked with the token in {self.token.origin}" if self.token else "asked without a token"
            raise CheckpointError(
                f"{self.endpoint} shows no model {repository}: there is none, or it is private ({asked})",
                hint="check the name; for a private one set HF_TOKEN to a token that may read it",
            )
        if status == 403:
            hint = "a proxy may forbid it; or the token may not read it, if the hub itself says so"
        else:
            hint = "HF_ENDPOINT, or a proxy, may lead to something that is no hub"
        said = "".join(c for c in reply.headers.get("X-Error-Message", "") if c.isprintable())[:200]
        raise ConnectionFailedError(
            f"{self.endpoint} answered {status} ({said or reply.reason}) for {repository}",
            hint=hint,
            status=status,
        )


class BusyError(ConnectionFailedError):
    """The hub asks to come back later. Caught within ``checkpoint``, unless it goes on."""

    def __init__(self, reply: requests.Response, message: str) -> None:
        super().__init__(message, hint="try again later; what was fetched is kept", status=reply.status_code)
        self.reply = reply


def pause_seconds(reply: requests.Response | None, attempt: int) -> float:
    """How long to wait before attempt ``attempt`` + 1: what the server asks for, else 1 s, 2 s, 4 s, …"""
    asked = reply.headers.get("Retry-After", "") if reply is not None else ""
    return min(_MOST_PAUSE, float(asked) if asked.isdecimal() else 2.0**attempt)


def is_untrusted(error: requests.RequestException) -> bool:
    """Whether the server's certificate is what was wrong, which trying again does not change."""
    return isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)


def explain(error: requests.RequestException, endpoint: str) -> ConnectionFailedError:
    """The error that says in one line why a hub could not be reached."""
    if isinstance(error, requests.exceptions.SSLError) and not is_untrusted(error):
        return ConnectionFailedError(
            f"no TLS connection to {endpoint} could be made",
            hint="check HTTPS_PROXY, and whether HF_ENDPOINT is http:// or https://",
        )
    if isinstance(error, requests.exceptions.SSLError):
        return ConnectionFailedError(
            f"the certificate of {endpoint} could not be verified",
            hint="behind a proxy that inspects traffic, set REQUESTS_CA_BUNDLE (or SSL_CERT_FILE) to its CA's file",
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return ConnectionFailedError(
            f"the proxy on the way to {endpoint} could not be used",
            hint="check HTTPS_PROXY, HTTP_PROXY and NO_PROXY",
        )
    if isinstance(error, requests.Timeout):
        return ConnectionFailedError(
            f"{endpoint} did not answer in time", hint="check the network, and try again"
        )
    return ConnectionFailedError(
        f"{endpoint} could not be reached",
        hint="check the network, HTTPS_PROXY and HF_ENDPOINT; or fetch the checkpoint on another machine, and set "
        "model.source to its directory",
    )


class _Bearer(AuthBase):
    """Says who asks. An object, since requests would let a .netrc overrule a mere header."""

    def __init__(self, token: Token | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token.value}"
        return request


def _file(entry: Any) -> HubFile:
    """Raises ValueError, KeyError or TypeError for what describes no file that could be kept."""
    if not isinstance(entry, dict):
        raise TypeError("a file is described by an object")
    lfs = entry.get("lfs")
    name, size, blob = entry["rfilename"], entry["size"], lfs["sha256"] if lfs else entry["blobId"]
    if not (isinstance(name, str) and isinstance(blob, str) and type(size) is int):
        raise TypeError("a file has a name, a size and a checksum")
    if not 0 <= size <= _LARGEST_FILE:
        raise ValueError("no file has that size")
    return HubFile(name=name, size=size, blob=blob, large=bool(lfs))
