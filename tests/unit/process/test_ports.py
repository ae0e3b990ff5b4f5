"""Ports: exclusive listeners, and who holds a taken one."""

from __future__ import annotations

import os
import socket

import pytest

from tri_serve.errors import ResourceError
from tri_serve.process.ports import bind_listener, free_port, port_holder


def test_a_free_port_can_be_bound() -> None:
    port = free_port("127.0.0.1")
    with bind_listener("127.0.0.1", port) as listener:
        assert listener.getsockname() == ("127.0.0.1", port)


def test_a_taken_port_is_refused_and_its_holder_named() -> None:
    with bind_listener("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(
            ResourceError, match=rf"^port {port} on 127.0.0.1 is taken by pid {os.getpid()} \("
        ):
            bind_listener("127.0.0.1", port)


def test_a_wildcard_does_not_slip_past_a_listener() -> None:
    with bind_listener("127.0.0.1", 0) as first, pytest.raises(ResourceError, match="is taken"):
        bind_listener("0.0.0.0", first.getsockname()[1])


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(
        ResourceError, match=r"cannot listen on 192\.0\.2\.1:0: this machine has no such address"
    ):
        bind_listener("192.0.2.1", 0)


def test_localhost_is_the_ipv4_loopback() -> None:
    with bind_listener("localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_a_listener_is_nonblocking_and_not_inherited() -> None:
    with bind_listener("127.0.0.1", 0) as listener:
        assert listener.getblocking() is False
        assert os.get_inheritable(listener.fileno()) is False


def test_nobody_holds_a_free_port() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert port_holder(bound.getsockname()[1]) is None
