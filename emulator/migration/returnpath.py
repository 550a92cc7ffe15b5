"""Words between the two sides: the source's commands in the stream, the destination's messages on the way back.

A command is byte 08, u16 command, u16 length, data. A message is u16 type, u16 length, data. QEMU has the source open
the way back (command 1) and ping (2); the destination answers each ping (message 2) and says in the end whether it has
loaded everything (message 1, 0 for yes). Then, between two QEMUs, it starts the guest by itself, and a connection that
breaks at that moment leaves two guests running or none.

A mini-qemu pings with `CAUGHT_UP` before it stops the guest, and waits until the destination, of whatever kind, has
answered and so read everything before it.

Between two mini-qemus the destination waits for one more word. The source pings with `HELLO` and a random token; who
knows what that means answers `ANSWER` besides, which no QEMU does. Then, after the destination has loaded everything,
the guest is its own when the source says `GO`: until it has heard that everything is loaded, the source can take the
guest back, and from then on it never does. If the connection breaks before `GO` has been acknowledged, the source comes
back with `REDELIVERY` and the token; and with `ABANDONED` if it has taken the guest back. Behind `GO` and `REDELIVERY`
stands what was typed at the guest and has not reached it, so that it is there before whatever is typed at the
destination. The source's last word, `HEARD`, tells the destination that nobody will come back. The stream between them
has no description of itself at the end: nobody reads it there, and the guest would stand still while it is made.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from emulator.migration.errors import FramingError, printable
from emulator.migration.format import Command, Order
from emulator.migration.wire import Reader

HELLO = 0x6D71_7631
ANSWER = 0x6D71_7632
CAUGHT_UP = 0x6D71_6375
GO = 0x6D71_676F
REDELIVERY, ABANDONED, HEARD = b"MQGO", b"MQNO", b"MQOK"
TYPED_LIMIT = 1 << 20
"""Bytes of that."""

LOADED = 0
REFUSED = 1

_MESSAGE = struct.Struct(">HH")
_U32 = struct.Struct(">I")

TEXT_LIMIT = 1000
"""Bytes of a reason."""


class Message(enum.IntEnum):
    """What a destination says on the way back (QEMU's MIG_RP_MSG_..., and the last for mini-qemu alone)."""

    SHUT = 1
    PONG = 2
    REASON = 0x6D71
    """Why nothing was loaded, as text; `SHUT` follows."""


class Said(NamedTuple):
    """A message with its number or its text."""

    message: Message
    value: int = 0
    text: str = ""


def ping(value: int) -> Order:
    """The command that asks for a PONG with this value."""
    return Order(Command.PING, _U32.pack(value))


def pinged(order: Order) -> int:
    """The value of a ping."""
    return int(_U32.unpack(order.data)[0])


def put_typed(data: bytes) -> bytes:
    """What was typed at the source, behind its length as u32; too much of it is cut off."""
    data = data[:TYPED_LIMIT]
    return _U32.pack(len(data)) + data


def get_typed(reader: Reader) -> bytes:
    """Read what was typed at the source; raises TruncatedError, or FramingError for too much."""
    begin = reader.offset
    if (length := reader.u32()) > TYPED_LIMIT:
        raise FramingError(f"at most {TYPED_LIMIT} bytes of input", length, offset=begin)
    return reader.read(length)


def get_return(reader: Reader) -> bytes:
    """What a source says that has come back: a word and a token; behind `REDELIVERY` stands what was typed there."""
    return reader.read(len(REDELIVERY) + _U32.size)


def with_token(word: bytes, token: int) -> bytes:
    """What a source that comes back begins with."""
    return word + _U32.pack(token)


def message(said: Said) -> bytes:
    """The bytes of a message."""
    data = said.text.encode()[:TEXT_LIMIT] if said.message is Message.REASON else _U32.pack(said.value)
    return _MESSAGE.pack(said.message, len(data)) + data


def get_message(reader: Reader) -> Said:
    """Read a message; raises TruncatedError, or FramingError for one that is unknown."""
    begin = reader.offset
    kind, length = reader.unpack(_MESSAGE)
    if kind == Message.REASON and length <= TEXT_LIMIT:
        return Said(Message.REASON, text=printable(reader.read(length).decode("utf-8", "replace")))
    if kind not in (Message.SHUT, Message.PONG) or length != _U32.size:
        raise FramingError("a message of the return path", f"{kind} with {length} bytes", offset=begin)
    return Said(Message(kind), reader.u32())
