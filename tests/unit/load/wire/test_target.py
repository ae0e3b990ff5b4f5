"""Addresses of servers, as people write them."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tri_serve.errors import UsageError
from tri_serve.load.wire.target import parse_target


@pytest.mark.parametrize(
    ("written", "host", "port", "base", "authority"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1", 8000, "", "127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1", "127.0.0.1", 8000, "", "127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/", "127.0.0.1", 8000, "", "127.0.0.1:8000"),
        ("https://llm.example.org/team/v1", "llm.example.org", 443, "/team", "llm.example.org"),
        ("http://[::1]:9000/", "::1", 9000, "", "[::1]:9000"),
        (" http://server ", "server", 80, "", "server"),
    ],
)
def test_parts_of_an_address(written: str, host: str, port: int, base: str, authority: str) -> None:
    target = parse_target(written)
    assert (target.host, target.port, target.base, target.authority) == (host, port, base, authority)
    assert target.tls == written.strip().startswith("https")


@pytest.mark.parametrize(
    "written",
    [
        "",
        "localhost:8000",
        "127.0.0.1",
        "ftp://server",
        "http://",
        "http://server:port",
        "http://server:99999",
        "http://server:0",
        "http://server/?model=x",
        "http://server/#top",
        "http://ser ver",
        "http://[::1",
    ],
)
def test_what_is_no_address_is_refused_in_one_line(written: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_target(written)
    assert "\n" not in str(refused.value)
    assert "write it as http://HOST:PORT" in str(refused.value)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as refused:
        parse_target("http://user:secret-word@server")
    assert "secret-word" not in str(refused.value)


def test_certificates_are_checked_unless_told_otherwise() -> None:
    assert parse_target("https://server").tls_context().verify_mode is ssl.CERT_REQUIRED
    assert parse_target("https://server", insecure=True).tls_context().verify_mode is ssl.CERT_NONE


def test_a_file_without_certificates_is_named(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    for path in (file, tmp_path / "absent.pem"):
        with pytest.raises(UsageError, match=str(path)):
            parse_target("https://server", ca_file=path).tls_context()
