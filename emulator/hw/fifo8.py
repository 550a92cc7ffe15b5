"""A FIFO of sixteen bytes as a part of a chip, and its state in a stream: QEMU's `Fifo8`.

In memory the oldest byte is a reference into the ring; on the wire, where a reference would mean nothing, it is an
offset.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from emulator.migration.fields import Buffer, UInt32, WithTmp
from emulator.migration.vmstate import VMStateDescription

FIFO_SIZE = 16


@dataclass(slots=True)
class Cursor:
    """A place in a ring of bytes: a reference to the ring, not a copy, and an offset below its length."""

    ring: bytearray
    offset: int = 0


@dataclass(slots=True)
class Fifo:
    """Sixteen bytes, first in, first out; `head` is the oldest of the `count` bytes held, the others are zeros."""

    ring: bytearray = field(default_factory=lambda: bytearray(FIFO_SIZE))
    count: int = 0
    head: Cursor = field(init=False)

    def __post_init__(self) -> None:
        self.head = Cursor(self.ring)

    def push(self, value: int) -> bool:
        """Append a byte; False, and nothing changes, if the FIFO is full."""
        if self.count == FIFO_SIZE:
            return False
        self.ring[(self.head.offset + self.count) % FIFO_SIZE] = value
        self.count += 1
        return True

    def pop(self) -> int:
        """Take the oldest byte; the FIFO must hold one."""
        head = self.head
        value = head.ring[head.offset]
        head.ring[head.offset] = 0
        self.count -= 1
        head.offset = (head.offset + 1) % FIFO_SIZE if self.count else 0
        return value

    def clear(self) -> None:
        """Forget all bytes and begin again at the ring's start."""
        self.ring[:] = bytes(FIFO_SIZE)
        self.head.offset = self.count = 0

    def post_load(self, _version_id: int) -> None:
        """Drop what another machine's empty FIFO still held."""
        if not self.count:
            self.clear()


@dataclass(slots=True)
class HeadTmp:
    """The wire form of a FIFO's head."""

    parent: Fifo
    head: int = 0

    def pre_save(self) -> None:
        """From the reference to its offset."""
        self.head = self.parent.head.offset

    def post_load(self, _version_id: int) -> None:
        """From the offset to a reference into the new ring."""
        self.parent.head = Cursor(self.parent.ring, self.head)


VMSTATE_FIFO8 = VMStateDescription(
    "Fifo8",
    Fifo,
    version_id=1,
    minimum_version_id=1,
    fields=(
        Buffer("ring", FIFO_SIZE, wire_name="data", version_id=1),
        WithTmp(
            VMStateDescription("Fifo8/head", HeadTmp, fields=(UInt32("head", limit=FIFO_SIZE),)),
            covers=("head",),
            inline=True,
        ),
        UInt32("count", limit=FIFO_SIZE + 1, wire_name="num"),
    ),
)
