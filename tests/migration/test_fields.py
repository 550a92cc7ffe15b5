"""Every kind of field on its own: its bytes, its type's name, both ways, and what it refuses."""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from emulator.migration.errors import (
    CountError,
    FieldMismatchError,
    FieldRangeError,
    MarkerError,
    StateError,
    ValidationError,
)
from emulator.migration.fields import (
    Array,
    Array2D,
    ArrayOfPointer,
    Bitmap,
    Bool,
    Buffer,
    Field,
    Float64,
    GTree,
    Info,
    Int8,
    Int16,
    Int32,
    Int32Equal,
    Int32Le,
    Int64,
    PartialBuffer,
    QList,
    QTailQ,
    Single,
    Struct,
    SubArray,
    Timer,
    UInt8,
    UInt8Equal,
    UInt16,
    UInt16Equal,
    UInt32,
    UInt32Equal,
    UInt64,
    UInt64Equal,
    Unused,
    UnusedVArray,
    Validate,
    VArray,
    VArrayAlloc,
    VBuffer,
    VBufferAlloc,
    VStruct,
)
from emulator.migration.vmstate import VMStateDescription
from emulator.migration.wire import Reader, Writer


@dataclass(slots=True)
class State:
    """One attribute for the field under test, one that counts."""

    x: Any = None
    n: int = 0


def describe(*fields: Field) -> VMStateDescription:
    return VMStateDescription("dev", State, version_id=1, fields=fields)


@dataclass(slots=True)
class Pair:
    a: int = 0
    b: int = 0


PAIR = VMStateDescription("pair", Pair, version_id=2, fields=(UInt8("a"), UInt8("b", version_id=2)))


class Backwards(Info):
    """A wire form of one's own: bytes in reverse order."""

    type_name = "backwards"

    def put(self, writer: Writer, value: Any, _entry: Any = None) -> None:
        writer.write(value[::-1])

    def get(self, reader: Reader, current: Any) -> Any:
        return reader.read(len(current))[::-1]


SCALARS: list[tuple[Callable[..., Field], str, Any, str]] = [
    (Bool, "bool", False, "00"),
    (Bool, "bool", True, "01"),
    (Int8, "int8", -128, "80"),
    (Int8, "int8", 127, "7f"),
    (Int16, "int16", -(2**15), "8000"),
    (Int16, "int16", 2**15 - 1, "7fff"),
    (Int32, "int32", -(2**31), "80000000"),
    (Int32, "int32", 2**31 - 1, "7fffffff"),
    (Int64, "int64", -(2**63), "8000000000000000"),
    (Int64, "int64", 2**63 - 1, "7fffffffffffffff"),
    (UInt8, "uint8", 0xFE, "fe"),
    (UInt16, "uint16", 0xFEDC, "fedc"),
    (UInt32, "uint32", 0xFEDCBA98, "fedcba98"),
    (UInt64, "uint64", 0xFEDCBA9876543210, "fedcba9876543210"),
    (Float64, "CPU_Double_U", -0.0, "8000000000000000"),
    (Float64, "CPU_Double_U", 1.5, "3ff8000000000000"),
    (Float64, "CPU_Double_U", math.inf, "7ff0000000000000"),
    (Timer, "timer", None, "ffffffffffffffff"),
    (Timer, "timer", 0, "0000000000000000"),
    (Timer, "timer", 2**63 - 1, "7fffffffffffffff"),
]


@pytest.mark.parametrize(("kind", "type_name", "value", "data"), SCALARS)
def test_scalar(kind: Any, type_name: str, value: Any, data: str, save: Any, load: Any) -> None:
    description = describe(kind("x"))
    assert save(description, State(value)).hex() == data
    assert repr(load(description, bytes.fromhex(data)).x) == repr(value)
    assert kind("x").type_name == type_name


@pytest.mark.parametrize(("kind", "value", "data"), [(row[0], row[2], row[3]) for row in SCALARS])
def test_array_of_scalars(kind: Any, value: Any, data: str, save: Any, load: Any) -> None:
    description = describe(Array("x", kind, 3))
    assert save(description, State([value] * 3)).hex() == data * 3
    assert load(description, bytes.fromhex(data * 3), fresh=lambda: State([0] * 3)).x == [value] * 3


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Int8("x"), 128),
        (UInt8("x"), -1),
        (UInt8("x"), 256),
        (UInt64("x"), 2**64),
        (Int64("x"), None),
        (UInt16("x"), 1.0),
        (UInt8("x", limit=16), 16),
        (Int8("x", limit=16), -1),
        (Float64("x"), "1.0"),
        (Timer("x"), -1),
        (Timer("x"), 2**63),
    ],
)
def test_value_that_does_not_fit_is_not_saved(kind: Field, value: Any) -> None:
    for fields in ((kind,), (UInt32("n"), kind)):
        with pytest.raises(StateError, match=r"^cannot save x: expected "):
            describe(*fields).save(State(value), Writer())


def test_not_a_number_keeps_its_payload(save: Any, load: Any) -> None:
    description = describe(Float64("x"))
    for bits in (0x7FF8000000000000, 0x7FF0000000000001, 0xFFFFFFFFFFFFFFFF):
        data = struct.pack(">Q", bits)
        assert save(description, load(description, data)) == data


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Bool("x"), "02"),
        (UInt8("x", limit=16), "10"),
        (Int8("x", limit=16), "ff"),
        (UInt64("x", limit=1), "ffffffffffffffff"),
        (Timer("x"), "fffffffffffffffe"),
        (Timer("x"), "8000000000000000"),
    ],
)
def test_value_out_of_range_is_refused(kind: Field, data: str, refused: Any) -> None:
    alone = refused(describe(kind), bytes.fromhex(data))
    in_run = refused(describe(UInt32("n"), kind), bytes(4) + bytes.fromhex(data))
    assert isinstance(alone, FieldRangeError)
    assert isinstance(in_run, FieldRangeError)
    assert (alone.section, alone.path, alone.offset) == ("dev", "x", 0)
    assert (in_run.section, in_run.path, in_run.offset) == ("dev", "x", 4)


def test_bits_that_a_register_does_not_have_are_refused(save: Any, load: Any, refused: Any) -> None:
    description = describe(UInt8("x", bits=0xC9))
    assert load(description, save(description, State(0xC9))).x == 0xC9
    error = refused(description, b"\x02")
    assert str(error) == "dev x at byte 0x0: expected no bits but 0xc9, got 0x2"
    error = refused(describe(Array("x", UInt16.within(3), 2)), bytes.fromhex("0003 0004"), State([0, 0]))
    assert str(error) == "dev x[1] at byte 0x2: expected no bits but 0x3, got 0x4"
    with pytest.raises(StateError, match="expected no bits but 0xc9, got 0xff"):
        description.save(State(0xFF), Writer())
    with pytest.raises(ValueError, match="limit or bits, not both"):
        UInt8("x", limit=4, bits=3)


def test_limit_is_the_first_value_past_the_range(save: Any, load: Any) -> None:
    description = describe(UInt8("x", limit=16))
    assert load(description, save(description, State(15))).x == 15


def test_bad_element_is_named(refused: Any) -> None:
    error = refused(describe(Array("x", UInt16.below(3), 4)), bytes.fromhex("0000 0002 0003 0000"), State([0] * 4))
    assert (error.path, error.offset) == ("x[2]", 4)
    assert str(error) == "dev x[2] at byte 0x4: expected 0 to 2, got 3"
    with pytest.raises(StateError, match=r"^cannot save x\[1\]: expected a value for uint16, got 65536$"):
        describe(Array("x", UInt16, 2)).save(State([0, 0x10000]), Writer())


@pytest.mark.parametrize(
    ("kind", "type_name", "value", "data"),
    [
        (UInt8Equal, "uint8 equal", 0xFE, "fe"),
        (UInt16Equal, "uint16 equal", 0xFEDC, "fedc"),
        (Int32Equal, "int32 equal", -2, "fffffffe"),
        (UInt32Equal, "uint32 equal", 0xFEDCBA98, "fedcba98"),
        (UInt64Equal, "int64 equal", 0xFEDCBA9876543210, "fedcba9876543210"),
    ],
)
def test_equal(kind: Any, type_name: str, value: int, data: str, save: Any, load: Any, refused: Any) -> None:
    description = describe(kind("x", hint="same -smp?"))
    assert kind("x").type_name == type_name
    assert save(description, State(value)).hex() == data
    assert load(description, bytes.fromhex(data), fresh=lambda: State(value)).x == value
    error = refused(description, bytes.fromhex(data), State(value + 1))
    assert isinstance(error, FieldMismatchError)
    assert str(error) == f"dev x at byte 0x0: expected {value + 1}, as it is here (same -smp?), got {value}"


def test_int32_le(save: Any, load: Any, refused: Any) -> None:
    description = describe(Int32Le("x"))
    assert Int32Le("x").type_name == "int32 le"
    assert save(description, State(2)).hex() == "00000002"
    assert load(description, bytes.fromhex("00000002"), fresh=lambda: State(2)).x == 2
    assert load(description, bytes.fromhex("00000000"), fresh=lambda: State(2)).x == 0
    for data in ("00000003", "ffffffff", "7fffffff"):
        assert isinstance(refused(description, bytes.fromhex(data), State(2)), FieldRangeError)


@dataclass
class Layout:
    """A field, its state, its bytes, and the fresh state it is loaded into."""

    fields: tuple[Field, ...]
    state: State
    data: str
    fresh: Callable[[], State]
    type_name: str


def pairs(count: int) -> list[Pair]:
    return [Pair() for _ in range(count)]


N8 = UInt8("n")
LAYOUTS = {
    "bytes as an array": Layout(
        (Array("x", UInt8, 3),), State(bytearray(b"\1\2\3")), "010203", lambda: State(bytearray(3)), "uint8"
    ),
    "sub-array": Layout(
        (SubArray("x", UInt16, 1, 2),), State([9, 1, 2, 9]), "0001 0002", lambda: State([9, 0, 0, 9]), "uint16"
    ),
    "two sub-arrays of one array": Layout(
        (SubArray("x", UInt8, 0, 1), SubArray("x", UInt8, 2, 1)),
        State([1, 9, 3]),
        "01 03",
        lambda: State([0, 9, 0]),
        "uint8",
    ),
    "two-dimensional array": Layout(
        (Array2D("x", UInt16, 2, 3),),
        State([[1, 2, 3], [4, 5, 6]]),
        "0001 0002 0003 0004 0005 0006",
        lambda: State([[0] * 3, [0] * 3]),
        "uint16",
    ),
    "counted array": Layout(
        (N8, VArray("x", UInt32, "n")),
        State([1, 2, 9, 9], 2),
        "02 00000001 00000002",
        lambda: State([0, 0, 9, 9]),
        "uint32",
    ),
    "array counted by a function": Layout(
        (VArray("x", UInt16, lambda state: len(state.x)),), State([1, 2]), "0001 0002", lambda: State([0, 0]), "uint16"
    ),
    "multiplied array": Layout(
        (N8, VArray("x", UInt8, "n", multiply=3)),
        State([1, 2, 3, 4, 5, 6, 9], 2),
        "02 01 02 03 04 05 06",
        lambda: State([0] * 6 + [9]),
        "uint8",
    ),
    "empty array": Layout((N8, VArray("x", UInt8, "n")), State([9], 0), "00", lambda: State([9]), ""),
    "allocated array": Layout(
        (N8, VArrayAlloc("x", Int16, "n", maximum=3)),
        State([-1, -2, -3], 3),
        "03 ffff fffe fffd",
        lambda: State([7]),
        "int16",
    ),
    "array of timers": Layout(
        (Array("x", Timer, 2),), State([None, 5]), "ffffffffffffffff 0000000000000005", lambda: State([0, 0]), "timer"
    ),
    "array of pointers": Layout(
        (ArrayOfPointer("x", UInt16, 3),),
        State([0x3000, None, 5]),
        "3000 30 0005",
        lambda: State([0, None, 0]),
        "uint16",
    ),
    "struct": Layout((Struct("x", PAIR),), State(Pair(1, 2)), "01 02", lambda: State(Pair()), "struct"),
    "struct that is not there yet": Layout((Struct("x", PAIR),), State(Pair(1, 2)), "01 02", State, "struct"),
    "versioned struct": Layout((VStruct("x", PAIR, 1),), State(Pair(1, 9)), "01", lambda: State(Pair(b=9)), "vstruct"),
    "struct array": Layout(
        (Array("x", PAIR, 2),), State([Pair(1, 2), Pair(3, 4)]), "01 02 03 04", lambda: State(pairs(2)), "struct"
    ),
    "struct sub-array": Layout(
        (SubArray("x", PAIR, 1, 1),), State([Pair(), Pair(3, 4)]), "03 04", lambda: State(pairs(2)), "struct"
    ),
    "two-dimensional struct array": Layout(
        (Array2D("x", PAIR, 2, 1),),
        State([[Pair(1, 2)], [Pair(3, 4)]]),
        "01 02 03 04",
        lambda: State([pairs(1), pairs(1)]),
        "struct",
    ),
    "counted struct array": Layout(
        (N8, VArray("x", PAIR, "n")), State([Pair(1, 2), Pair()], 1), "01 01 02", lambda: State(pairs(2)), "struct"
    ),
    "allocated struct array": Layout(
        (N8, VArrayAlloc("x", PAIR, "n", maximum=1)), State([Pair(1, 2)], 1), "01 01 02", lambda: State([]), "struct"
    ),
    "array of pointers to structs": Layout(
        (ArrayOfPointer("x", PAIR, 2),),
        State([None, Pair(0x30, 4)]),
        "30 30 04",
        lambda: State([None, Pair()]),
        "struct",
    ),
    "buffer": Layout((Buffer("x", 3),), State(bytearray(b"abc")), "616263", lambda: State(bytearray(3)), "buffer"),
    "immutable buffer": Layout((Buffer("x", 3),), State(b"abc"), "616263", lambda: State(bytes(3)), "buffer"),
    "partial buffer": Layout(
        (PartialBuffer("x", 2),), State(bytearray(b"ab..")), "6162", lambda: State(bytearray(b"\0\0..")), "buffer"
    ),
    "buffer from the middle on": Layout(
        (PartialBuffer("x", 2, start=2),), State(b"..cd"), "6364", lambda: State(b"..\0\0"), "buffer"
    ),
    "counted buffer": Layout((N8, VBuffer("x", "n")), State(b"ab.", 2), "02 6162", lambda: State(b"\0\0."), "buffer"),
    "multiplied buffer": Layout(
        (N8, VBuffer("x", "n", multiply=2)), State(b"abcd", 2), "02 61626364", lambda: State(bytes(4)), "buffer"
    ),
    "allocated buffer": Layout(
        (N8, VBufferAlloc("x", "n", maximum=4)),
        State(bytearray(b"ab"), 2),
        "02 6162",
        lambda: State(bytearray()),
        "buffer",
    ),
    "bitmap": Layout(
        (N8, Bitmap("x", "n", maximum=128)),
        State(1 << 64 | 1 << 1, 65),
        "41 0000000000000002 0000000000000001",
        lambda: State(0),
        "bitmap",
    ),
    "empty bitmap": Layout((N8, Bitmap("x", "n", maximum=128)), State(0, 0), "00", lambda: State(0), "bitmap"),
    "tail queue": Layout(
        (QTailQ("x", PAIR, maximum=2),),
        State([Pair(1, 2), Pair(3, 4)]),
        "01 0102 01 0304 00",
        lambda: State([]),
        "qtailq",
    ),
    "tail queue in a deque": Layout(
        (QTailQ("x", PAIR, maximum=2),), State(deque([Pair(1, 2)])), "01 0102 00", lambda: State(deque()), "qtailq"
    ),
    "empty list": Layout((QList("x", PAIR, maximum=2),), State([]), "00", lambda: State([Pair()]), "qlist"),
    "tree": Layout(
        (GTree("x", PAIR, maximum=2),),
        State({2: Pair(3, 4), 1: Pair(1, 2)}),
        "00000002 01 0000000000000001 0102 01 0000000000000002 0304 00",
        lambda: State({}),
        "gtree",
    ),
    "unused": Layout((Unused(3), N8), State(None, 7), "000000 07", State, "unused_buffer"),
    "unused array": Layout(
        (N8, UnusedVArray("n", 2, maximum=2)), State(None, 2), "02 0000 0000", State, "unused_buffer"
    ),
    "validation": Layout(
        (N8, Validate("n is 7", lambda state, _version: state.n == 7)), State(None, 7), "07", State, ""
    ),
    "a form of one's own": Layout(
        (Single("x", Backwards()),), State(b"abc"), "636261", lambda: State(bytes(3)), "backwards"
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layout(layout: Layout, save: Any, load: Any) -> None:
    description = describe(*layout.fields)
    data = bytes.fromhex(layout.data)
    assert save(description, layout.state) == data
    fresh = layout.fresh()
    whole_before = fresh.x
    assert load(description, data, fresh=layout.fresh) == layout.state
    assert description.load(Reader(data), None, fresh) is fresh
    assert type(fresh.x) is type(layout.state.x)
    if isinstance(whole_before, list) and not isinstance(layout.fields[-1], VArrayAlloc):
        assert fresh.x is whole_before
    described: dict[str, Any] = {}
    description.save(layout.state, Writer(), vmdesc=described)
    if layout.type_name:
        assert layout.type_name in [entry["type"] for entry in described["fields"]]


def test_unused_bytes_may_be_anything_and_are_saved_as_zeros(save: Any, load: Any) -> None:
    description = describe(Unused(2), UnusedVArray(lambda _state: 1, 1, maximum=1))
    assert save(description, load(description, b"\1\2\3")) == bytes(3)


COUNTED: dict[str, tuple[Field, Callable[[], Any]]] = {
    "array": (VArray("x", UInt8, "n"), lambda: [0] * 4),
    "array with maximum": (VArray("x", UInt8, "n", maximum=4), lambda: [0] * 9),
    "allocated array": (VArrayAlloc("x", UInt8, "n", maximum=4), list),
    "struct array": (VArray("x", PAIR, "n"), lambda: pairs(4)),
    "allocated struct array": (VArrayAlloc("x", PAIR, "n", maximum=4), list),
    "buffer": (VBuffer("x", "n"), lambda: bytearray(4)),
    "buffer with maximum": (VBuffer("x", "n", maximum=4), lambda: bytearray(9)),
    "allocated buffer": (VBufferAlloc("x", "n", maximum=4), bytes),
    "bitmap": (Bitmap("x", "n", maximum=4), int),
    "unused array": (UnusedVArray("n", 1, maximum=4), int),
    "unused array of nothing": (UnusedVArray("n", 0, maximum=4), int),
}


@pytest.mark.parametrize(("counted", "fresh"), COUNTED.values(), ids=COUNTED.keys())
@pytest.mark.parametrize("count", [5, -1, 2**31 - 1, -(2**31)])
def test_count_beyond_bounds_is_refused(counted: Field, fresh: Callable[[], Any], count: int, refused: Any) -> None:
    description = describe(Int32("n"), counted)
    error = refused(description, struct.pack(">i", count) + bytes(64), State(fresh()))
    assert isinstance(error, CountError)
    assert (error.path, error.offset) == (counted.wire_name, 4)
    assert error.value == count
    with pytest.raises(StateError):
        description.save(State(fresh(), count), Writer())


@pytest.mark.parametrize(("counted", "fresh"), COUNTED.values(), ids=COUNTED.keys())
@pytest.mark.parametrize("count", [0, 4])
def test_count_at_its_bounds_is_loaded(counted: Field, fresh: Callable[[], Any], count: int) -> None:
    state = describe(UInt32("n"), counted).load(Reader(struct.pack(">I", count) + bytes(64)[:8]), None, State(fresh()))
    assert state.n == count


def test_product_of_count_and_multiplier_is_bounded(refused: Any) -> None:
    description = describe(UInt32("n"), VArrayAlloc("x", UInt64, "n", multiply=1 << 30, maximum=1 << 30))
    assert refused(description, b"\xff" * 64).value == 0xFFFFFFFF << 30


def test_bits_past_the_size_are_refused(refused: Any) -> None:
    description = describe(UInt8("n"), Bitmap("x", "n", maximum=64))
    error = refused(description, bytes.fromhex("03 0000000000000008"), State(0))
    assert str(error) == "dev x at byte 0x1: expected bits 0 to 2 only, got bit 3"
    for bits in (8, -1):
        with pytest.raises(StateError):
            description.save(State(bits, 3), Writer())


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Array("x", UInt8, 2), [0]),
        (Array("x", UInt8, 2), [0] * 3),
        (SubArray("x", UInt8, 1, 2), [0] * 2),
        (Array2D("x", UInt8, 2, 2), [[0, 0], [0]]),
        (VArrayAlloc("x", UInt8, "n", maximum=9), [0]),
        (Buffer("x", 2), b"a"),
        (PartialBuffer("x", 2), b"a"),
        (VBufferAlloc("x", "n", maximum=9), b"a"),
        (Struct("x", PAIR), None),
        (Array("x", PAIR, 1), [None]),
        (QTailQ("x", PAIR, maximum=1), pairs(2)),
        (QTailQ("x", PAIR, maximum=1), [Pair(a=256)]),
        (GTree("x", PAIR, maximum=1), {1: Pair(), 2: Pair()}),
        (GTree("x", PAIR, maximum=1), {-1: Pair()}),
        (Validate("n is 7", lambda state, _version: state.n == 7), None),
    ],
)
def test_state_that_contradicts_its_description_is_not_saved(kind: Field, value: Any) -> None:
    vmdesc: dict[str, Any] | None
    for vmdesc in (None, {}):
        with pytest.raises(StateError, match=r"^cannot save (x|n is 7)"):
            describe(kind).save(State(value), Writer(), vmdesc=vmdesc)


@pytest.mark.parametrize("marker", [0x00, 0x31, 0xFF])
def test_null_pointer_needs_its_marker(marker: int, refused: Any) -> None:
    error = refused(describe(ArrayOfPointer("x", PAIR, 2)), bytes((1, 2, marker)), State([Pair(), None]))
    assert isinstance(error, MarkerError)
    assert (error.path, error.offset) == ("x[1]", 2)


@pytest.mark.parametrize("marker", [0x02, 0x30, 0xFF])
@pytest.mark.parametrize("kind", [QTailQ, QList])
def test_queue_goes_on_with_1_and_ends_with_0(kind: Any, marker: int, refused: Any) -> None:
    error = refused(describe(kind("x", PAIR, maximum=9)), bytes((1, 0, 0, marker)), State([]))
    assert isinstance(error, MarkerError)
    assert (error.path, error.offset) == ("x", 3)


def test_queue_longer_than_its_maximum_is_refused(refused: Any) -> None:
    error = refused(describe(QTailQ("x", PAIR, maximum=2)), bytes((1, 0, 0)) * 99, State([]))
    assert isinstance(error, CountError)
    assert error.offset == 6


def node(key: int) -> bytes:
    return b"\1" + key.to_bytes(8, "big") + bytes(2)


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"\0\0\0\4" + node(1) + node(2) + node(3) + node(4) + b"\0", 0),
        (b"\xff\xff\xff\xff", 0),
        (b"\0\0\0\2" + node(1) + b"\0", 16),
        (b"\0\0\0\0" + node(1) + b"\0", 4),
        (b"\0\0\0\2" + node(1) + node(1) + b"\0", 16),
        (b"\0\0\0\2" + node(2) + node(1) + b"\0", 16),
    ],
    ids=["too many", "extreme", "too few", "more than announced", "same key twice", "descending keys"],
)
def test_inconsistent_tree_is_refused(data: bytes, offset: int, refused: Any) -> None:
    error = refused(describe(GTree("x", PAIR, maximum=3)), data, State({}))
    assert isinstance(error, FieldRangeError)
    assert error.offset == offset


def test_tree_of_struct_keys_needs_order_and_hash() -> None:
    with pytest.raises(ValueError, match="order and a hash"):
        GTree("x", PAIR, key=PAIR, order=lambda key: key.a, maximum=1)


def test_failed_validation_is_refused(refused: Any) -> None:
    description = describe(UInt8("n"), Validate("n is 7", lambda state, _version: state.n == 7), UInt8("x"))
    error = refused(description, b"\6\0")
    assert isinstance(error, ValidationError)
    assert (error.path, error.offset) == ("n is 7", 1)


def test_path_leads_through_structs_and_arrays(refused: Any) -> None:
    @dataclass(slots=True)
    class Outer:
        pairs: list[Pair] = field(default_factory=lambda: pairs(2))

    inner = VMStateDescription("pair", Pair, fields=(UInt8("a", wire_name="first"), UInt8("b", limit=1)))
    outer = VMStateDescription("outer", Outer, fields=(Array("pairs", inner, 2),))
    description = describe(UInt8("n"), Struct("x", outer))
    error = refused(description, bytes((0, 0, 0, 0, 1)), State(Outer()))
    assert str(error) == "dev x.pairs[1].b at byte 0x4: expected 0 to 0, got 1"
    error = refused(description, bytes((0, 0, 0)), State(Outer()))
    assert str(error) == "dev x.pairs[1].first at byte 0x3: expected 1 byte, got only 0"
