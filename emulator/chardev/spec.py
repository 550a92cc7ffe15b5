"""QEMU's spellings of character devices, as `-serial`, `-monitor` and `-qmp` take them, taken apart and checked."""

from __future__ import annotations

from dataclasses import dataclass

from emulator.core.errors import ChardevError

KNOWN = "stdio, null, pty, file:PATH, unix:PATH[,OPTIONS], tcp:HOST:PORT[,OPTIONS], each also after mon:"
_PLAIN = ("stdio", "null", "pty")
_UNSUPPORTED = frozenset(
    "braille chardev con msmouse parallel parport pipe ringbuf serial spiceport spicevmc telnet testdev tn3270 tty udp "
    "vc wctablet websocket".split()
)
_OPTIONS = {"tcp": ("server", "wait", "nodelay"), "unix": ("server", "wait")}
_UNSUPPORTED_OPTIONS = frozenset(
    "abstract fd id ipv4 ipv6 logappend logfile mux reconnect telnet tight tls-authz tls-creds tn3270 to "
    "websocket".split()
)


@dataclass(frozen=True, slots=True)
class ChardevSpec:
    """One parsed chardev; fields that its kind does not have keep their defaults."""

    kind: str
    """`stdio`, `null`, `pty`, `file`, `unix` or `tcp`."""
    mux: bool = False
    """Whether it was spelled with `mon:`: Ctrl-A commands work, and several ports may share it."""
    path: str = ""
    host: str = ""
    port: int = 0
    server: bool = False
    wait: bool = True
    """A server holds up the start until a client comes."""
    nodelay: bool = False


def parse_chardev(text: str) -> ChardevSpec:
    """Take a chardev's spelling apart; ChardevError if it is malformed, unknown or not supported."""
    mux = text.startswith("mon:")
    body = text.removeprefix("mon:")
    kind, colon, rest = body.partition(":")
    if body in _PLAIN:
        return ChardevSpec(body, mux)
    if kind == "file" and colon:
        if not rest:
            raise ChardevError(f"{text}: expected file:PATH")
        return ChardevSpec("file", mux, path=rest)
    if kind in _OPTIONS and colon:
        return _parse_socket(text, kind, rest, mux=mux)
    if kind.partition(",")[0] in _UNSUPPORTED or body.startswith("/dev/"):
        raise ChardevError(f"character device {text} is not supported")
    raise ChardevError(f"{text!r} is not a character device; there are {KNOWN}")


def _parse_socket(text: str, kind: str, rest: str, *, mux: bool) -> ChardevSpec:
    # QEMU writes a comma that belongs to a value as two.
    address, *words = (word.replace("\0", ",") for word in rest.replace(",,", "\0").split(","))
    flags = dict(_parse_option(text, kind, word) for word in words)
    server = flags.get("server", False)
    if "wait" in flags and not server:
        raise ChardevError(f"{text}: wait is for a server only; add server=on")
    wait, nodelay = flags.get("wait", True), flags.get("nodelay", False)
    if kind == "unix":
        if not address:
            raise ChardevError(f"{text}: expected unix:PATH")
        return ChardevSpec(kind, mux, path=address, server=server, wait=wait)
    host, colon, number = address.rpartition(":")
    if not colon or not number:
        raise ChardevError(f"{text}: expected tcp:HOST:PORT")
    if not (number.isascii() and number.isdigit() and int(number[:6]) <= 0xFFFF):
        raise ChardevError(f"{text}: port {number} is not a number from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ChardevError(f"{text}: expected tcp:HOST:PORT, with an IPv6 address in brackets")
    return ChardevSpec(kind, mux, host=host, port=int(number), server=server, wait=wait, nodelay=nodelay)


def _parse_option(text: str, kind: str, word: str) -> tuple[str, bool]:
    """One option: `name=on`, `name=off`, or QEMU's older `name` and `noname`."""
    name, equals, value = word.partition("=")
    known = _OPTIONS[kind]
    if not equals:
        value = "on"
        if name not in known and name.startswith("no") and name[2:] in known:
            name, value = name[2:], "off"
    if name in _UNSUPPORTED_OPTIONS:
        raise ChardevError(f"{text}: option {name} is not supported")
    if name not in known:
        raise ChardevError(f"{text}: unknown option {word!r}; there are {', '.join(known)}")
    if value not in ("on", "off"):
        raise ChardevError(f"{text}: {name} is on or off, not {value!r}")
    return name, value == "on"
