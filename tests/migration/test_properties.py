"""Random states survive, random bytes are refused or mean exactly what they say."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.migration.errors import FieldRangeError, StreamError, SubsectionError, TruncatedError
from emulator.migration.fields import (
    Array,
    Array2D,
    ArrayOfPointer,
    Bitmap,
    Bool,
    Buffer,
    Float64,
    GTree,
    Int8,
    Int16,
    Int32,
    Int64,
    PartialBuffer,
    QList,
    QTailQ,
    Struct,
    SubArray,
    Timer,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    VArray,
    VArrayAlloc,
    VBuffer,
    VBufferAlloc,
    WithTmp,
)
from emulator.migration.vmdesc import decode, save_section
from emulator.migration.vmstate import VMStateDescription
from emulator.migration.wire import Reader, Writer


@dataclass(slots=True)
class Item:
    a: int = 0
    b: int = 0
    flag: bool = False


@dataclass(slots=True)
class Everything:
    """One attribute for each kind of field that has a form of its own."""

    number: int = 0
    signed: int = 0
    limited: int = 0
    flag: bool = False
    real: float = 0.0
    timer: int | None = None
    array: list[int] = field(default_factory=lambda: [0] * 3)
    part: list[int] = field(default_factory=lambda: [0] * 4)
    grid: list[list[int]] = field(default_factory=lambda: [[0, 0], [0, 0]])
    count: int = 0
    counted: list[int] = field(default_factory=lambda: [0] * 4)
    length: int = 0
    allocated: list[Item] = field(default_factory=list)
    size: int = 0
    buffer: bytearray = field(default_factory=lambda: bytearray(4))
    some: bytes = bytes(4)
    data: bytes = b""
    bits: int = 0
    item: Item = field(default_factory=Item)
    items: list[Item] = field(default_factory=lambda: [Item(), Item()])
    pointers: list[Item | None] = field(default_factory=lambda: [None, Item()])
    queue: list[Item] = field(default_factory=list)
    chain: list[Item] = field(default_factory=list)
    tree: dict[int, Item] = field(default_factory=dict)
    target: Item | None = None
    extra: int = 0


@dataclass(slots=True)
class TargetTmp:
    """Which of the items is meant, by its index; 2 is none."""

    parent: Everything
    index: int = 0

    def pre_save(self) -> None:
        matches = [index for index, item in enumerate(self.parent.items) if item is self.parent.target]
        self.index = matches[0] if matches else 2

    def post_load(self, _version_id: int) -> None:
        if self.index > 2:
            raise FieldRangeError("index", self.index, 3)
        self.parent.target = self.parent.items[self.index] if self.index < 2 else None


FLAGGED = VMStateDescription("item/flag", Item, fields=(Bool("flag"),), needed=lambda item: item.flag)
ITEM = VMStateDescription("item", Item, version_id=1, fields=(UInt8("a"), Int16("b")), subsections=(FLAGGED,))
EXTRA = VMStateDescription(
    "dev/extra", Everything, version_id=1, fields=(UInt32("extra"),), needed=lambda state: state.extra > 0
)
DEV = VMStateDescription(
    "dev",
    Everything,
    version_id=1,
    fields=(
        UInt64("number"),
        Int32("signed"),
        UInt8("limited", limit=3),
        Bool("flag"),
        Float64("real"),
        Timer("timer"),
        Array("array", UInt16, 3),
        SubArray("part", Int8, 1, 2),
        Array2D("grid", UInt8, 2, 2),
        UInt8("count"),
        VArray("counted", Int64, "count"),
        UInt16("length"),
        VArrayAlloc("allocated", ITEM, "length", maximum=3),
        Int32("size"),
        Buffer("buffer", 4),
        PartialBuffer("some", 2, start=1),
        VBufferAlloc("data", "size", maximum=5),
        Bitmap("bits", "length", maximum=3),
        Struct("item", ITEM),
        Array("items", ITEM, 2),
        ArrayOfPointer("pointers", ITEM, 2),
        QTailQ("queue", ITEM, maximum=3),
        QList("chain", ITEM, maximum=3),
        GTree("tree", ITEM, maximum=3),
        WithTmp(VMStateDescription("dev/target", TargetTmp, fields=(UInt8("index"),)), covers=("target",)),
    ),
    subsections=(EXTRA,),
)
VB = VMStateDescription("vb", Everything, fields=(UInt32("size"), VBuffer("buffer", "size")))


def integers(bits: int, *, signed: bool = False) -> st.SearchStrategy[int]:
    least = -(1 << (bits - 1)) if signed else 0
    return st.integers(least, least + (1 << bits) - 1)


def ints(bits: int, count: int, *, signed: bool = False) -> st.SearchStrategy[list[int]]:
    return st.lists(integers(bits, signed=signed), min_size=count, max_size=count)


ITEMS = st.builds(Item, a=integers(8), b=integers(16, signed=True), flag=st.booleans())


@st.composite
def states(draw: st.DrawFn) -> Everything:
    allocated = draw(st.lists(ITEMS, max_size=3))
    data = draw(st.binary(max_size=5))
    items = draw(st.lists(ITEMS, min_size=2, max_size=2))
    count = draw(st.integers(0, 4))
    return Everything(
        number=draw(integers(64)),
        signed=draw(integers(32, signed=True)),
        limited=draw(st.integers(0, 2)),
        flag=draw(st.booleans()),
        real=draw(st.floats(allow_nan=False)),
        timer=draw(st.none() | st.integers(0, (1 << 63) - 1)),
        array=draw(ints(16, 3)),
        part=[0, *draw(ints(8, 2, signed=True)), 0],
        grid=[draw(ints(8, 2)), draw(ints(8, 2))],
        count=count,
        counted=draw(ints(64, count, signed=True)) + [0] * (4 - count),
        length=len(allocated),
        allocated=allocated,
        size=len(data),
        buffer=bytearray(draw(st.binary(min_size=4, max_size=4))),
        some=b"\0" + draw(st.binary(min_size=2, max_size=2)) + b"\0",
        data=data,
        bits=draw(st.integers(0, (1 << len(allocated)) - 1)),
        item=draw(ITEMS),
        items=items,
        pointers=[None, draw(ITEMS)],
        queue=draw(st.lists(ITEMS, max_size=3)),
        chain=draw(st.lists(ITEMS, max_size=3)),
        tree=draw(st.dictionaries(integers(64), ITEMS, max_size=3)),
        target=draw(st.sampled_from([None, *items])),
        extra=draw(integers(32)),
    )


def saved(state: Everything, description: VMStateDescription = DEV) -> bytearray:
    writer = Writer()
    description.save(state, writer)
    return writer.data


def outcome(data: bytes | bytearray, description: VMStateDescription) -> StreamError | Everything:
    """The state that `data` begins with, or why there is none."""
    try:
        return description.load(Reader(data))  # type: ignore[no-any-return]
    except StreamError as error:
        return error


def check_error(error: StreamError, data: bytes | bytearray) -> None:
    assert error.offset is not None
    assert error.offset <= len(data)
    assert error.section in ("dev", "vb")
    assert error.path or isinstance(error, SubsectionError | TruncatedError)
    assert "\n" not in str(error)


def check(data: bytes | bytearray, description: VMStateDescription) -> None:
    """`data` must be refused, or mean a state that is saved as just those bytes.

    Only a subsection that says what its absence would say may be missing from them.
    """
    state = outcome(data, description)
    if isinstance(state, StreamError):
        check_error(state, data)
        return
    again = saved(state, description)
    assert data.startswith(again) or b"item/flag" in data or b"dev/extra" in data
    reader = Reader(again)
    assert saved(description.load(reader), description) == again
    assert reader.remaining == 0


SLOW = settings(max_examples=40, deadline=None)


@SLOW
@given(states())
def test_states_survive(state: Everything) -> None:
    loaded = DEV.load(Reader(saved(state)))
    assert loaded == state
    assert [loaded.target is item for item in loaded.items] == [state.target is item for item in state.items]


@SLOW
@given(states())
def test_the_description_in_the_stream_tells_the_same(state: Everything) -> None:
    writer = Writer()
    section = save_section(DEV, state, writer, name="dev", instance_id=0)
    assert writer.data == saved(state)
    scalars = {"fields": section["fields"][:6]}
    assert decode(scalars, Reader(writer.data)) == {
        "number": state.number,
        "signed": state.signed,
        "limited": state.limited,
        "flag": state.flag,
        "real": state.real,
        "timer": -1 if state.timer is None else state.timer,
    }


@SLOW
@given(states(), st.data())
def test_truncated_states_are_refused(state: Everything, data: st.DataObject) -> None:
    state.extra = 0
    whole = saved(state)
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    error = outcome(part, DEV)
    assert isinstance(error, StreamError)
    check_error(error, part)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_mean_what_they_say(data: bytes) -> None:
    check(data, DEV)
    check(data, VB)


@SLOW
@given(states(), st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=3))
def test_damaged_states_are_refused_or_mean_what_they_say(state: Everything, damage: list[tuple[int, int]]) -> None:
    data = saved(state)
    for position, flip in damage:
        data[position % len(data)] ^= flip
    check(data, DEV)
