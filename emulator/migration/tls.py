"""TLS for a migration's stream: QEMU's directory of certificates, and the protocol over a connected socket.

`SSLSocket` is not used: OpenSSL's object is not for two threads, and one that waits in it to read would keep another
from writing. Here the protocol has no socket and never waits, so a short lock is enough.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emulator.core.errors import ChannelError
from emulator.migration.iovec import pieces
from emulator.migration.transports import Channel, Data, SocketChannel

ENCRYPT_SIZE = 1 << 18
"""Bytes that are encrypted, and then sent, at a time."""
RECEIVE_SIZE = 1 << 18

_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "BAD_RECORD_TYPE", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE")


@dataclass(frozen=True, slots=True)
class TlsCredentials:
    """Certificates as QEMU's `tls-creds-x509` keeps them, in one directory, in PEM.

    `ca-cert.pem` and perhaps `ca-crl.pem`; for who listens `server-cert.pem` and `server-key.pem`; for who connects
    `client-cert.pem` and `client-key.pem`, without which it is anonymous. Keys are not encrypted.
    """

    directory: Path
    verify_peer: bool = True
    """Each side asks for a certificate that the CA has signed, and the client for the server's name in it."""
    hostname: str = ""
    """That name, where it is not the host of the URI: QEMU's `tls-hostname`."""
    endpoint: str = ""
    """`client` or `server` if they are for that side alone."""

    def client_context(self) -> ssl.SSLContext:
        """What a client needs; ChannelError if a file is missing or is not what its name says."""
        self._check_endpoint("client")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = self.verify_peer
        self._prepare(context)
        if any((self.directory / name).exists() for name in ("client-cert.pem", "client-key.pem")):
            self._load_chain(context, "client")
        return context

    def server_context(self) -> ssl.SSLContext:
        """What a server needs; ChannelError if a file is missing or is not what its name says."""
        self._check_endpoint("server")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # A client that only writes would never read them, and unread bytes turn the end of a connection into a reset.
        context.num_tickets = 0
        self._prepare(context)
        self._load_chain(context, "server")
        return context

    def _check_endpoint(self, wanted: str) -> None:
        if self.endpoint not in ("", wanted):
            raise ChannelError(f"Expected TLS credentials for a {wanted} endpoint")

    def _prepare(self, context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.verify_mode = ssl.CERT_REQUIRED if self.verify_peer else ssl.CERT_NONE
        self._load("ca-cert.pem", context.load_verify_locations)
        if (self.directory / "ca-crl.pem").exists():
            self._load("ca-crl.pem", context.load_verify_locations)
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF

    def _load_chain(self, context: ssl.SSLContext, side: str) -> None:
        key = self.directory / f"{side}-key.pem"
        self._load(key.name, lambda path: path.open("rb").close())
        self._load(f"{side}-cert.pem", lambda path: context.load_cert_chain(path, key, password=_no_password))

    def _load(self, name: str, load: Callable[[Path], object]) -> None:
        try:
            load(self.directory / name)
        except (OSError, ValueError) as error:
            why = _reason(error) if isinstance(error, OSError) else str(error)
            raise ChannelError(f"cannot use '{self.directory / name}': {why}") from error


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _reason(error: OSError) -> str:
    """What went wrong in TLS, in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"bad certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError):
        return "the peer has closed the connection"
    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    if error.reason in _NOT_TLS:
        return "the peer does not speak TLS"
    return (error.reason or error.strerror or "TLS failed").replace("_", " ").lower()


class TlsChannel(SocketChannel):
    """TLS over a connected socket, which it owns; of use as a `Channel` once `advance` has returned True."""

    def __init__(self, connection: socket.socket, name: str, context: ssl.SSLContext, hostname: str | None) -> None:
        """`hostname` is the name of the server that this is a client of; None for the server itself."""
        super().__init__(connection, name)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, hostname is None, hostname)
        except ValueError as error:
            raise ChannelError(f"cannot set up TLS with {name}: {hostname!r} can be no host's name") from error
        self._begun = False
        self.agreed = False
        """Whether the handshake is through."""
        self._engine = threading.Lock()
        self._sending = threading.Lock()
        """Taken before `_engine`, so that records go out in the order in which they were made."""
        self._buffer = memoryview(bytearray(RECEIVE_SIZE))

    def handshake(self, timeout: float) -> None:
        """Agree with the peer on keys within so many seconds; raises ChannelError."""
        deadline = time.monotonic() + timeout
        while not self.advance(max(deadline - time.monotonic(), 0.001)):
            pass

    def advance(self, timeout: float) -> bool:
        """One step of the handshake: wait for bytes, `timeout` seconds at most, and answer; whether all is agreed on.

        With 0 it does not wait. The first step of a client waits for nothing. Raises ChannelError, after the peer has
        been told.
        """
        try:
            self._socket.settimeout(timeout)
            if self._begun and not self._receive():
                return False
            self._begun = True
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return False
            finally:
                self._send_pending()
            self._socket.settimeout(None)
            self.agreed = True
            return True
        except OSError as error:
            raise self._failure("set up TLS with", error) from error

    @property
    def has_data(self) -> bool:
        """Whether something is there to be read although the socket has nothing more."""
        with self._engine:
            return bool(self._tls.pending() or self._incoming.pending)

    def write(self, data: Data) -> None:
        """See `Channel.write`."""
        with memoryview(data) as whole, whole.cast("B") as rest:
            for begin in range(0, len(rest), ENCRYPT_SIZE):
                with rest[begin : begin + ENCRYPT_SIZE] as part:
                    self._encrypt(part)

    def writev(self, iovec: NDArray[np.uint64]) -> None:
        """See `Channel.writev`; the memory is copied, as it has to be encrypted somewhere."""
        for piece in pieces(iovec):
            self.write(piece)

    def _encrypt(self, data: memoryview) -> None:
        try:
            with self._sending:
                with self._engine:
                    done = 0
                    while done < len(data):
                        done += self._tls.write(data[done:])
                    records = self._outgoing.read()
                self._socket.sendall(records, _NO_SIGNAL)
        except OSError as error:
            raise self._failure("write to", error) from error

    def read_into(self, view: memoryview) -> int:
        """See `Channel.read_into`.

        A connection that ends without TLS saying so is taken for ended, too: QEMU does not say so, and a stream shows
        by itself whether it is complete.
        """
        try:
            while (count := self._decrypt(view)) is None:
                self._receive()
        except OSError as error:
            raise self._failure("read from", error) from error
        else:
            return count

    def _decrypt(self, view: memoryview) -> int | None:
        """Fill the view with what is there; None if that is nothing yet."""
        count = 0
        with self._engine, contextlib.suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):
            while count < len(view):
                try:
                    got = self._tls.read(len(view) - count, view[count:])
                except ssl.SSLWantReadError:
                    return count or None
                if not got:
                    break
                count += int(got)
        return count

    def _receive(self) -> bool:
        """Wait for bytes or for the end of the connection; False if the socket does not wait and there are none."""
        try:
            count = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return False
        with self._engine:
            if count:
                self._incoming.write(self._buffer[:count])
            else:
                self._incoming.write_eof()
        return True

    def _send_pending(self) -> None:
        if self._outgoing.pending:  # a peer that has gone minds even nothing at all
            self._socket.sendall(self._outgoing.read(), _NO_SIGNAL)

    def _close(self) -> None:
        """Close it; the peer is told that this is the end."""
        if not self._given_up and self._socket.fileno() >= 0:
            with contextlib.suppress(OSError), self._sending:
                with contextlib.suppress(ssl.SSLError), self._engine:
                    self._tls.unwrap()
                self._send_pending()
        super()._close()

    def _reason(self, error: OSError) -> str:
        if isinstance(error, ssl.SSLError):
            return "it was shut down" if self._given_up else _reason(error)
        return super()._reason(error)


def secured(
    connection: socket.socket, name: str, context: ssl.SSLContext, hostname: str | None, timeout: float
) -> Channel:
    """A connected socket with TLS on it, agreed on within so many seconds; raises ChannelError, and then closes it."""
    try:
        channel = TlsChannel(connection, name, context, hostname)
        channel.handshake(timeout)
    except BaseException:
        connection.close()
        raise
    return channel
