"""WITH_TMP: references in Python, numbers on the wire, in the middle of a state, in arrays and in structs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from emulator.migration.checks import unknown_attributes
from emulator.migration.errors import FieldRangeError
from emulator.migration.fields import Array, Buffer, QTailQ, Struct, UInt8, UInt32, WithTmp
from emulator.migration.vmstate import VMStateDescription
from emulator.migration.wire import Reader, Writer

SIZE = 4


@dataclass(slots=True)
class Cursor:
    """A place in a buffer: worth nothing in another process."""

    ring: bytearray
    offset: int


@dataclass(slots=True)
class Fifo:
    before: int = 0
    ring: bytearray = field(default_factory=lambda: bytearray(SIZE))
    head: Cursor = field(init=False)
    after: int = 0

    def __post_init__(self) -> None:
        self.head = Cursor(self.ring, 0)


@dataclass(slots=True)
class HeadTmp:
    """The head as an offset."""

    parent: Fifo
    offset: int = 0

    def pre_save(self) -> None:
        self.offset = self.parent.head.offset

    def post_load(self, _version_id: int) -> None:
        if self.offset >= SIZE:
            raise FieldRangeError("offset", self.offset, SIZE)
        self.parent.head = Cursor(self.parent.ring, self.offset)


HEAD = WithTmp(VMStateDescription("fifo/head", HeadTmp, fields=(UInt32("offset"),)), covers=("head",))
FIFO = VMStateDescription("fifo", Fifo, fields=(UInt8("before"), Buffer("ring", SIZE), HEAD, UInt8("after")))


def fifo(offset: int) -> Fifo:
    state = Fifo(1, bytearray(b"abcd"), after=2)
    state.head = Cursor(state.ring, offset)
    return state


FIFO_WIRE = """
    01           | before
    61 62 63 64  | ring
    00 00 00 03  | offset of the head, the temporary's only field
    02           | after
"""


def test_the_reference_is_a_number_on_the_wire(wire: Any, save: Any, load: Any) -> None:
    assert save(FIFO, fifo(3)) == wire(FIFO_WIRE)
    loaded = load(FIFO, wire(FIFO_WIRE))
    assert loaded == fifo(3)
    assert loaded.head.ring is loaded.ring


def test_the_temporary_is_checked_where_it_stands(refused: Any) -> None:
    error = refused(FIFO, bytes.fromhex("01 61626364 00000004 02"))
    assert isinstance(error, FieldRangeError)
    assert str(error) == "fifo tmp.offset at byte 0x9: expected 0 to 3, got 4"


@dataclass(slots=True)
class Holder:
    one: Fifo = field(default_factory=Fifo)
    many: list[Fifo] = field(default_factory=lambda: [Fifo(), Fifo()])
    queue: list[Fifo] = field(default_factory=list)


HOLDER = VMStateDescription(
    "holder", Holder, fields=(Struct("one", FIFO), Array("many", FIFO, 2), QTailQ("queue", FIFO, maximum=1))
)


def test_it_works_in_structs_arrays_and_queues(wire: Any, save: Any, load: Any) -> None:
    state = Holder(fifo(3), [fifo(3), fifo(3)], [fifo(3)])
    data = wire(FIFO_WIRE) * 3 + b"\1" + wire(FIFO_WIRE) + b"\0"
    assert save(HOLDER, state) == data
    loaded = load(HOLDER, data)
    assert loaded == state
    for part in (loaded.one, *loaded.many, *loaded.queue):
        assert part.head.ring is part.ring


def test_an_element_is_named_when_its_temporary_is_bad(wire: Any, refused: Any) -> None:
    data = bytearray(wire(FIFO_WIRE) * 3)
    data[2 * 10 + 8] = 9
    assert str(refused(HOLDER, data)) == "holder many[1].tmp.offset at byte 0x1d: expected 0 to 3, got 9"


@dataclass(slots=True)
class Source:
    number: int


@dataclass(slots=True)
class Controller:
    sources: list[Source] = field(default_factory=lambda: [Source(number) for number in range(3)])
    current: Source | None = None


@dataclass(slots=True)
class CurrentTmp:
    """The source in service as its number, 0 for none."""

    parent: Controller
    number: int = 0

    def pre_save(self) -> None:
        self.number = self.parent.current.number if self.parent.current else 0

    def post_load(self, _version_id: int) -> None:
        self.parent.current = self.parent.sources[self.number] if self.number else None


CONTROLLER = VMStateDescription(
    "controller",
    Controller,
    fields=(
        WithTmp(
            VMStateDescription("controller/current", CurrentTmp, fields=(UInt8("number", limit=3),)),
            covers=("current",),
        ),
    ),
    derived=("sources",),
)


def test_an_object_reference_leads_to_the_receivers_object(save: Any, load: Any) -> None:
    state = Controller()
    assert save(CONTROLLER, state) == b"\0"
    state.current = state.sources[2]
    assert save(CONTROLLER, state) == b"\2"
    loaded = load(CONTROLLER, b"\2")
    assert loaded.current is loaded.sources[2]


def test_a_temporarys_fields_have_limits_too(refused: Any) -> None:
    assert str(refused(CONTROLLER, b"\3")) == "controller tmp.number at byte 0x0: expected 0 to 2, got 3"


@dataclass(slots=True)
class PlainTmp:
    parent: Controller
    unused: int = 0


def test_completeness_looks_into_temporaries() -> None:
    assert unknown_attributes(FIFO) == ()
    assert unknown_attributes(HOLDER) == ()
    assert unknown_attributes(CONTROLLER) == ()
    careless = VMStateDescription("c", Controller, fields=(WithTmp(VMStateDescription("c/tmp", PlainTmp)),))
    assert unknown_attributes(careless) == ("sources", "current", "c/tmp.unused")


@pytest.mark.parametrize("offset", range(SIZE))
def test_every_head_survives(offset: int) -> None:
    writer = Writer()
    FIFO.save(fifo(offset), writer)
    assert FIFO.load(Reader(writer.data)) == fifo(offset)
