"""Where the requests go: scheme, host, port, path before ``/v1``, and how TLS is checked."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tri_serve.errors import UsageError

_DEFAULT_PORTS = {"http": 80, "https": 443}
_EXAMPLE = "write it as http://HOST:PORT or https://HOST"


@dataclass(frozen=True, slots=True)
class Target:
    """One server. It holds no secret: a URL with a user or a password in it is refused by ``parse_target``."""

    scheme: str
    host: str
    """Name or address; an IPv6 address without brackets."""
    port: int
    base: str = ""
    """The path before ``/v1``: empty, or ``/something`` without a slash at its end."""
    ca_file: Path | None = None
    """Certificates that are trusted in place of the system's."""
    insecure: bool = False
    """The server's certificate is not checked."""

    @property
    def tls(self) -> bool:
        """Whether it is spoken to through TLS."""
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """``host`` of requests: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as one would write it."""
        return f"{self.scheme}://{self.authority}{self.base}"

    def tls_context(self) -> ssl.SSLContext:
        """What connections to it check. Raises UsageError if ``ca_file`` holds no certificate."""
        try:
            context = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
        except OSError as error:  # ssl.SSLError is one
            raise UsageError(f"{self.ca_file}: holds no certificate that can be read ({error})") from error
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
        return context


def parse_target(url: str, *, ca_file: Path | None = None, insecure: bool = False) -> Target:
    """The server at ``url``, which may end in ``/v1``. Raises UsageError, in one line, at what is none."""
    text = url.strip()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{text!r} is no address of a server ({error}); {_EXAMPLE}") from error
    if parts.username is not None or parts.password is not None:
        # The text is not repeated: what stands before the @ may be a password.
        raise UsageError(
            "the server's address must not hold a user or a password", hint="set TRI_SERVE_API_KEY instead"
        )
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise UsageError(f"{text!r} is no address of a server; {_EXAMPLE}")
    if parts.query or parts.fragment:
        raise UsageError(f"{text!r} has a query or a fragment, which no server's address has; {_EXAMPLE}")
    if port == 0 or any(mark.isspace() or ord(mark) < 32 for mark in text):
        raise UsageError(f"{text!r} is no address of a server; {_EXAMPLE}")
    return Target(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port or _DEFAULT_PORTS[parts.scheme],
        base=parts.path.rstrip("/").removesuffix("/v1").rstrip("/"),
        ca_file=ca_file,
        insecure=insecure,
    )
