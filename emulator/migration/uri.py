"""Where a migration's stream goes to or comes from: QEMU's URIs, taken apart and checked."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from emulator.core.errors import ConfigError

KNOWN = "tcp:HOST:PORT, unix:PATH, exec:COMMAND, fd:N, file:PATH[,offset=N]"
QUOTE_LIMIT = 160
"""Characters of a URI that a message repeats: paths are long, and commands have no end."""

_SHIFTS = {"": 0, "B": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_MOST_OFFSET = 1 << 62


@dataclass(frozen=True, slots=True)
class Address:
    """One parsed URI; fields that its kind does not have keep their defaults."""

    kind: str
    """`tcp`, `unix`, `exec`, `fd` or `file`."""
    host: str = ""
    """A name or an address, without brackets; empty for this host, which is no address to listen on."""
    port: int = 0
    path: str = ""
    command: str = ""
    fd: int = -1
    offset: int = 0
    """Where in the file the stream begins, in bytes."""

    @property
    def is_endpoint(self) -> bool:
        """Whether one can connect to it again and again."""
        return self.kind in ("tcp", "unix")

    def __str__(self) -> str:
        """The URI itself."""
        match self.kind:
            case "tcp":
                return f"tcp:{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
            case "unix":
                return f"unix:{self.path}"
            case "exec":
                return f"exec:{self.command}"
            case "fd":
                return f"fd:{self.fd}"
        return f"file:{self.path}" + (f",offset=0x{self.offset:x}" if self.offset else "")

    def quoted(self) -> str:
        """The URI for a message: one printable line, cut short when long."""
        return _quoted(str(self))


def parse_uri(text: str) -> Address:
    """Take a URI apart; ConfigError if it is malformed or of no known kind. Says nothing on what is there.

    A port is a number, 0 (when listening: any free one) to 65535; an IPv6 address stands in brackets. An offset is a
    number of bytes, in hexadecimal after `0x`, or decimal and then perhaps with K, M, G or T.
    """
    kind, colon, rest = text.partition(":")
    parse = _PARSERS.get(kind) if colon else None
    if parse is None:
        raise ConfigError(f"{_quoted(text)} is not a migration address; there are {KNOWN}")
    try:
        plain = b"\0" not in os.fsencode(rest)
    except UnicodeEncodeError:
        plain = False
    if not rest or not plain:
        raise _malformed(text, f"expected {next(known for known in KNOWN.split(', ') if known.startswith(kind))}")
    return parse(text, rest)


def _parse_tcp(text: str, rest: str) -> Address:
    host, colon, number = rest.rpartition(":")
    if not colon or not number:
        raise _malformed(text, "expected tcp:HOST:PORT")
    if not re.fullmatch("[0-9]{1,5}", number) or int(number) > 0xFFFF:
        raise _malformed(text, f"port {_quoted(number)} is not a number from 0 to 65535")
    if host.startswith("[") and host.endswith("]") and len(host) > 2:
        host = host[1:-1]
    elif ":" in host or "[" in host or "]" in host:
        raise _malformed(text, "expected tcp:HOST:PORT, with an IPv6 address in brackets")
    return Address("tcp", host=host, port=int(number))


def _parse_unix(_text: str, rest: str) -> Address:
    return Address("unix", path=rest)


def _parse_exec(_text: str, rest: str) -> Address:
    return Address("exec", command=rest)


def _parse_fd(text: str, rest: str) -> Address:
    if not re.fullmatch("[0-9]{1,9}", rest):
        raise _malformed(text, "expected the number of an open file descriptor")
    return Address("fd", fd=int(rest))


def _parse_file(text: str, rest: str) -> Address:
    path, option, number = rest.partition(",offset=")
    if not path:
        raise _malformed(text, "expected file:PATH[,offset=N]")
    return Address("file", path=path, offset=_parse_offset(text, number) if option else 0)


def _parse_offset(text: str, number: str) -> int:
    if re.fullmatch("0[xX][0-9a-fA-F]{1,16}", number):
        offset = int(number, 16)
    elif match := re.fullmatch("([0-9]{1,19})([BKMGT]?)", number, re.IGNORECASE):
        offset = int(match[1]) << _SHIFTS[match[2].upper()]
    else:
        raise _malformed(text, f"offset {_quoted(number)} is not a number of bytes, such as 0x1000 or 4K")
    if offset > _MOST_OFFSET:
        raise _malformed(text, f"offset {_quoted(number)} is beyond what a file can have")
    return offset


def _malformed(text: str, why: str) -> ConfigError:
    return ConfigError(f"{_quoted(text)}: {why}")


def _quoted(text: str) -> str:
    shown = text if text.isprintable() and text else repr(text)
    return shown if len(shown) <= QUOTE_LIMIT else shown[:QUOTE_LIMIT] + "..."


_PARSERS = {"tcp": _parse_tcp, "unix": _parse_unix, "exec": _parse_exec, "fd": _parse_fd, "file": _parse_file}
