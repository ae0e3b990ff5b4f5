"""Connections on gevent's sockets: plain, or TLS over memory, so that a read is one ``os.read`` in either case."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket as names
import ssl
import time

import gevent
from gevent import socket

from tri_serve.load.wire.target import Target

READ_BYTES = 65_536

_OWN_LIMITS = {
    errno.EMFILE: "this process may open no more files (ulimit -n)",
    errno.ENFILE: "this machine may open no more files",
    errno.EADDRNOTAVAIL: "this machine has no local port left, or no address of that family",
    errno.ENOBUFS: "this machine has no memory for sockets left",
    errno.ENOMEM: "this machine has no memory for sockets left",
}
_ADDRESSES_KEPT_SECONDS = 60.0


_Address = tuple[int, tuple[str, int]]
"""Family, and what ``connect`` takes."""


class NoConnectionError(Exception):
    """No connection. ``own``: for a reason that lies with the client's machine."""

    def __init__(self, reason: str, *, own: bool = False) -> None:
        super().__init__(reason)
        self.own = own


class ClosedError(Exception):
    """The connection ended. The text says how."""


class Connection:
    """One connection. ``read`` never waits; ``send`` and the making of it let other greenlets run."""

    __slots__ = ("_incoming", "_outgoing", "_socket", "_tls", "fd", "idle_since", "used")

    def __init__(self, plain: socket.socket) -> None:
        self._socket = plain
        self.fd: int = plain.fileno()
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.used = False
        """It has carried an answer before."""
        self.idle_since = 0.0

    def send(self, data: bytes) -> None:
        """All of it, with one call where the kernel takes it at once. Raises OSError."""
        if self._tls is not None:
            self._tls.write(data)
            data = self._outgoing.read()
        self._socket.sendall(data)

    def read(self) -> bytes | None:
        """What is there; None if nothing is. Raises ClosedError at the end, however the server made it."""
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ClosedError(_words(error)) from error
        if self._tls is not None:
            return self._decrypt(data)
        if not data:
            raise ClosedError("closed by the server")
        return data

    def shake_hands(self, context: ssl.SSLContext, host: str) -> None:
        """TLS from here on. Raises OSError (ssl.SSLError is one)."""
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError:
                # The alert tells the server why.
                self._flush()
                raise
            else:
                done = True
            self._flush()
            if done:
                self._tls = tls
                return
            data = self._socket.recv(READ_BYTES)
            if data:
                self._incoming.write(data)
            else:
                raise ConnectionResetError(errno.ECONNRESET, "closed inside the handshake")

    def is_quiet(self) -> bool:
        """Open, with nothing to read: it can carry a request."""
        try:
            return self.read() is None
        except ClosedError:
            return False

    def close(self) -> None:
        """At once, also inside an answer; the server learns it."""
        self._socket.close()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self._socket.sendall(data)

    def _decrypt(self, data: bytes) -> bytes | None:
        assert self._tls is not None
        if data:
            self._incoming.write(data)
        pieces = []
        try:
            while piece := self._tls.read(READ_BYTES):
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            data = b""
        except ssl.SSLError as error:
            raise ClosedError(f"TLS: {error.reason or error}") from error
        if pieces:
            # An end that came with them is read again next time.
            return b"".join(pieces)
        if not data:
            raise ClosedError("closed by the server")
        return None


class Connector:
    """Makes connections to one target. Names are looked up once a minute at most: a lookup costs a thread."""

    __slots__ = ("_addresses", "_context", "_looked_up", "_silence", "_target", "_timeout")

    def __init__(self, target: Target, timeout: float, silence: float) -> None:
        self._target = target
        self._timeout = timeout
        # A server that stops reading keeps a sender no longer than this.
        self._silence = silence
        self._context = target.tls_context() if target.tls else None
        self._addresses: list[_Address] = []
        self._looked_up = 0.0

    def connect(self) -> Connection:
        """A new connection, TLS included. Raises NoConnectionError."""
        limit = gevent.Timeout(self._timeout)
        limit.start()
        try:
            return self._connect()
        except gevent.Timeout as expired:
            if expired is not limit:
                raise
            raise NoConnectionError(f"no connection within {self._timeout:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise NoConnectionError(f"TLS: the certificate is refused: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise NoConnectionError(f"TLS: {error.reason or error}") from error
        except OSError as error:
            # It may have moved.
            self._addresses = []
            own = _OWN_LIMITS.get(error.errno or 0)
            raise NoConnectionError(own or _words(error), own=own is not None) from error
        finally:
            limit.close()

    def _connect(self) -> Connection:
        failure: OSError | None = None
        for address in self._known():
            # Behind the others until it has answered: one that leads nowhere is tried first only once.
            self._addresses = [other for other in self._addresses if other != address] + [address]
            try:
                connection = self._connect_to(address)
            except ssl.SSLError:
                raise
            except OSError as error:
                failure = error
            else:
                # Names with several addresses of one family spread load over them; a family that works is kept to.
                alike = [other for other in self._addresses if other[0] == address[0]]
                self._addresses = alike + [other for other in self._addresses if other[0] != address[0]]
                return connection
        raise failure or OSError(errno.EHOSTUNREACH, "the name has no address")

    def _connect_to(self, address: _Address) -> Connection:
        plain = socket.socket(address[0], socket.SOCK_STREAM)
        try:
            plain.connect(address[1])
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(plain)
            if self._context is not None:
                connection.shake_hands(self._context, self._target.host)
            plain.settimeout(self._silence)
        except BaseException:  # an error, a time limit, or the greenlet's end
            plain.close()
            raise
        return connection

    def _known(self) -> list[_Address]:
        now = time.monotonic()
        if not self._addresses or now - self._looked_up > _ADDRESSES_KEPT_SECONDS:
            self._addresses = self._look_up()
            self._looked_up = now
        return list(self._addresses)

    def _look_up(self) -> list[_Address]:
        host, port = self._target.host, self._target.port
        try:
            version = ipaddress.ip_address(host).version
        except ValueError:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return [(family, (str(address[0]), port)) for family, _, _, _, address in found]
        return [(names.AF_INET if version == 4 else names.AF_INET6, (host, port))]


def _words(error: OSError) -> str:
    if isinstance(error, names.gaierror):
        return f"the name is not known: {error.strerror}"
    text = error.strerror or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]
