"""The 23 cases of QEMU 7.2's tests/unit/test-vmstate.c: same bytes, both ways, each cut at every byte.

QEMU's case names are kept, so that each can be found again; a case that only saves or only loads there goes only that
way here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from emulator.migration.fields import (
    Array,
    ArrayOfPointer,
    Bool,
    GTree,
    Int8,
    Int16,
    Int32,
    Int64,
    QList,
    QTailQ,
    Struct,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    WithTmp,
)
from emulator.migration.vmstate import VMStateDescription


@dataclass(slots=True)
class Simple:
    b_1: bool = False
    b_2: bool = False
    u8_1: int = 0
    u16_1: int = 0
    u32_1: int = 0
    u64_1: int = 0
    i8_1: int = 0
    i8_2: int = 0
    i16_1: int = 0
    i16_2: int = 0
    i32_1: int = 0
    i32_2: int = 0
    i64_1: int = 0
    i64_2: int = 0


SIMPLE = VMStateDescription(
    "simple/primitive",
    Simple,
    version_id=1,
    minimum_version_id=1,
    fields=(
        Bool("b_1"),
        Bool("b_2"),
        UInt8("u8_1"),
        UInt16("u16_1"),
        UInt32("u32_1"),
        UInt64("u64_1"),
        Int8("i8_1"),
        Int8("i8_2"),
        Int16("i16_1"),
        Int16("i16_2"),
        Int32("i32_1"),
        Int32("i32_2"),
        Int64("i64_1"),
        Int64("i64_2"),
    ),
)
SIMPLE_STATE = Simple(True, False, 130, 512, 70000, 12121212, 65, -65, 512, -512, 70000, -70000, 12121212, -12121212)
SIMPLE_WIRE = """
    01                       | b_1: true
    00                       | b_2: false
    82                       | u8_1: 130
    02 00                    | u16_1: 512
    00 01 11 70              | u32_1: 70000
    00 00 00 00 00 b8 f4 7c  | u64_1: 12121212
    41                       | i8_1: 65
    bf                       | i8_2: -65
    02 00                    | i16_1: 512
    fe 00                    | i16_2: -512
    00 01 11 70              | i32_1: 70000
    ff fe ee 90              | i32_2: -70000
    00 00 00 00 00 b8 f4 7c  | i64_1: 12121212
    ff ff ff ff ff 47 0b 84  | i64_2: -12121212
"""


@dataclass(slots=True)
class SimpleArray:
    u16_1: list[int] = field(default_factory=lambda: [0] * 3)


SIMPLE_ARRAY = VMStateDescription(
    "simple/array", SimpleArray, version_id=1, minimum_version_id=1, fields=(Array("u16_1", UInt16, 3),)
)
SIMPLE_ARRAY_WIRE = """
    00 42  | u16_1[0]
    00 43  | u16_1[1]
    00 44  | u16_1[2]
"""


@dataclass(slots=True)
class Six:
    """The struct of the versioned, skipping and temporary cases."""

    a: int = 0
    b: int = 0
    c: int = 0
    e: int = 0
    d: int = 0
    f: int = 0
    skip_c_e: bool = False


VERSIONED = VMStateDescription(
    "test/versioned",
    Six,
    version_id=2,
    minimum_version_id=1,
    fields=(
        UInt32("a"),
        UInt32("b", version_id=2),
        UInt32("c"),
        UInt64("d"),
        UInt32("e", version_id=2),
        UInt64("f", version_id=2),
    ),
    derived=("skip_c_e",),
)
V1_WIRE = """
    00 00 00 0a              | a
    00 00 00 1e              | c
    00 00 00 00 00 00 00 28  | d
"""
V2_WIRE = """
    00 00 00 0a              | a
    00 00 00 14              | b, since version 2
    00 00 00 1e              | c
    00 00 00 00 00 00 00 28  | d
    00 00 00 32              | e, since version 2
    00 00 00 00 00 00 00 3c  | f, since version 2
"""


def has_c_and_e(state: Six, _version_id: int) -> bool:
    return not state.skip_c_e


SKIPPING = VMStateDescription(
    "test/skip",
    Six,
    version_id=2,
    minimum_version_id=1,
    fields=(
        UInt32("a"),
        UInt32("b"),
        UInt32("c", field_exists=has_c_and_e),
        UInt64("d"),
        UInt32("e", field_exists=has_c_and_e),
        UInt64("f", version_id=2),
    ),
    derived=("skip_c_e",),
)
SAVED_NOSKIP_WIRE = """
    00 00 00 01              | a
    00 00 00 02              | b
    00 00 00 03              | c
    00 00 00 00 00 00 00 04  | d
    00 00 00 05              | e
    00 00 00 00 00 00 00 06  | f
"""
SAVED_SKIP_WIRE = """
    00 00 00 01              | a
    00 00 00 02              | b
    00 00 00 00 00 00 00 04  | d, c is left out
    00 00 00 00 00 00 00 06  | f, e is left out
"""
LOADED_SKIP_WIRE = """
    00 00 00 0a              | a
    00 00 00 14              | b
    00 00 00 00 00 00 00 28  | d, c is left out
    00 00 00 00 00 00 00 3c  | f, e is left out
"""


@dataclass(slots=True)
class Trivial:
    i: int = 0


TRIVIAL = VMStateDescription("test/tst", Trivial, version_id=1, minimum_version_id=1, fields=(Int32("i"),))


@dataclass(slots=True)
class Pointers:
    ar: list[Any]


STRUCT_POINTERS = VMStateDescription(
    "test/arps", Pointers, version_id=1, minimum_version_id=1, fields=(ArrayOfPointer("ar", TRIVIAL, 4),)
)
NUMBER_POINTERS = VMStateDescription(
    "test/arps", Pointers, version_id=1, minimum_version_id=1, fields=(ArrayOfPointer("ar", Int32, 4),)
)
NO_NULL_WIRE = """
    00 00 00 00  | ar[0]
    00 00 00 01  | ar[1]
    00 00 00 02  | ar[2]
    00 00 00 03  | ar[3]
"""
ONE_NULL_WIRE = """
    00 00 00 00  | ar[0]
    30           | ar[1]: the mark of a null pointer
    00 00 00 02  | ar[2]
    00 00 00 03  | ar[3]
"""


@dataclass(slots=True)
class QueueElement:
    b: bool = False
    u8: int = 0


@dataclass(slots=True)
class Queue:
    i16: int = 0
    q: list[QueueElement] = field(default_factory=list)
    i32: int = 0


QUEUE_ELEMENT = VMStateDescription(
    "test/queue-element", QueueElement, version_id=1, minimum_version_id=1, fields=(Bool("b"), UInt8("u8"))
)
QUEUE = VMStateDescription(
    "test/queue",
    Queue,
    version_id=1,
    minimum_version_id=1,
    fields=(Int16("i16"), QTailQ("q", QUEUE_ELEMENT, version_id=1, maximum=2), Int32("i32")),
)
QUEUE_STATE = Queue(-512, [QueueElement(True, 130), QueueElement(False, 65)], 70000)
QUEUE_WIRE = """
    fe 00        | i16: -512
    01           | here is an element
    01           | q[0].b: true
    82           | q[0].u8: 130
    01           | here is another
    00           | q[1].b: false
    41           | q[1].u8: 65
    00           | no more
    00 01 11 70  | i32: 70000
"""


@dataclass(slots=True, unsafe_hash=True)
class Interval:
    low: int = 0
    high: int = 0


@dataclass(slots=True)
class Mapping:
    phys_addr: int = 0
    flags: int = 0


@dataclass(slots=True)
class Domain:
    id: int = 0
    mappings: dict[Interval, Mapping] = field(default_factory=dict)


@dataclass(slots=True)
class Iommu:
    id: int = 0
    domains: dict[int, Domain] = field(default_factory=dict)


INTERVAL = VMStateDescription(
    "interval", Interval, version_id=1, minimum_version_id=1, fields=(UInt64("low"), UInt64("high"))
)
MAPPING = VMStateDescription(
    "mapping", Mapping, version_id=1, minimum_version_id=1, fields=(UInt64("phys_addr"), UInt32("flags"))
)
DOMAIN = VMStateDescription(
    "domain",
    Domain,
    version_id=1,
    minimum_version_id=1,
    fields=(
        Int32("id"),
        GTree("mappings", MAPPING, key=INTERVAL, order=lambda key: key.low, version_id=1, maximum=2),
    ),
)
IOMMU = VMStateDescription(
    "iommu",
    Iommu,
    version_id=1,
    minimum_version_id=1,
    fields=(Int32("id"), GTree("domains", DOMAIN, version_id=1, maximum=2)),
)
MAPPINGS_6 = {Interval(0x4000, 0x4FFF): Mapping(0xE0000, 2), Interval(0x1000, 0x1FFF): Mapping(0xA000, 1)}
DOMAIN_STATE = Domain(6, MAPPINGS_6)
IOMMU_STATE = Iommu(7, {6: DOMAIN_STATE, 5: Domain(5, {Interval(0x1000000, 0x1FFFFFF): Mapping(0xF000000, 3)})})
DOMAIN_WIRE = """
    00 00 00 06              | id
    00 00 00 02              | two mappings
    01                       | here is one
    00 00 00 00 00 00 10 00  | its key: low
    00 00 00 00 00 00 1f ff  | its key: high
    00 00 00 00 00 00 a0 00  | its value: phys_addr
    00 00 00 01              | its value: flags
    01                       | here is another
    00 00 00 00 00 00 40 00  | its key: low
    00 00 00 00 00 00 4f ff  | its key: high
    00 00 00 00 00 0e 00 00  | its value: phys_addr
    00 00 00 02              | its value: flags
    00                       | no more
"""
IOMMU_WIRE = f"""
    00 00 00 07              | id
    00 00 00 02              | two domains
    01                       | here is one
    00 00 00 00 00 00 00 05  | its key
    00 00 00 05              | domain 5: id
    00 00 00 01              | domain 5: one mapping
    01                       | here it is
    00 00 00 00 01 00 00 00  | its key: low
    00 00 00 00 01 ff ff ff  | its key: high
    00 00 00 00 0f 00 00 00  | its value: phys_addr
    00 00 00 03              | its value: flags
    00                       | no more in domain 5
    01                       | here is another domain
    00 00 00 00 00 00 00 06  | its key
    {DOMAIN_WIRE.strip()}
    00                       | no more domains
"""


@dataclass(slots=True)
class ListElement:
    id: int = 0


@dataclass(slots=True)
class Container:
    id: int = 0
    list: list[ListElement] = field(default_factory=list)


LIST_ELEMENT = VMStateDescription(
    "test/queue list", ListElement, version_id=1, minimum_version_id=1, fields=(UInt32("id"),)
)
CONTAINER = VMStateDescription(
    "test/container/qlist",
    Container,
    version_id=1,
    minimum_version_id=1,
    fields=(UInt32("id"), QList("list", LIST_ELEMENT, version_id=1, maximum=4)),
)
CONTAINER_STATE = Container(1, [ListElement(0xA), ListElement(0xB00), ListElement(0xC0000), ListElement(0xD000000)])
CONTAINER_WIRE = """
    00 00 00 01  | id
    01           | here is an element
    00 00 00 0a  | list[0].id
    01           | and one
    00 00 0b 00  | list[1].id
    01           | and one
    00 0c 00 00  | list[2].id
    01           | and one
    0d 00 00 00  | list[3].id
    00           | no more
"""


@dataclass(slots=True)
class Difference:
    """The wire carries b as its distance from a."""

    parent: Six
    diff: int = 0

    def pre_save(self) -> None:
        self.diff = self.parent.b - self.parent.a

    def post_load(self, _version_id: int) -> None:
        self.parent.b = self.parent.a + self.diff


BACK_TO_PARENT = VMStateDescription("test/tmp_child_parent", Six, fields=(UInt64("f"),))
DIFFERENCE = VMStateDescription("test/tmp_child", Difference, fields=(Int64("diff"), Struct("parent", BACK_TO_PARENT)))
TMP = VMStateDescription(
    "test/with_tmp", Six, version_id=1, fields=(UInt32("a"), UInt64("d"), WithTmp(DIFFERENCE, covers=("b",)))
)
TMP_WIRE = """
    00 00 00 02              | a
    00 00 00 00 00 00 00 01  | d
    00 00 00 00 00 00 00 02  | the temporary's diff: b - a
    00 00 00 00 00 00 00 08  | f, by way of the temporary's parent
"""

SAVED = [
    ("simple/primitive", SIMPLE, SIMPLE_STATE, SIMPLE_WIRE),
    ("simple/array", SIMPLE_ARRAY, SimpleArray([0x42, 0x43, 0x44]), SIMPLE_ARRAY_WIRE),
    ("field_exists/save/noskip", SKIPPING, Six(1, 2, 3, 5, 4, 6), SAVED_NOSKIP_WIRE),
    ("field_exists/save/skip", SKIPPING, Six(1, 2, 3, 5, 4, 6, skip_c_e=True), SAVED_SKIP_WIRE),
    ("array/ptr/str/no0/save", STRUCT_POINTERS, Pointers([Trivial(i) for i in range(4)]), NO_NULL_WIRE),
    ("array/ptr/str/0/save", STRUCT_POINTERS, Pointers([Trivial(0), None, Trivial(2), Trivial(3)]), ONE_NULL_WIRE),
    ("array/ptr/prim/0/save", NUMBER_POINTERS, Pointers([0, None, 2, 3]), ONE_NULL_WIRE),
    ("qtailq/save/saveq", QUEUE, QUEUE_STATE, QUEUE_WIRE),
    ("gtree/save/savedomain", DOMAIN, DOMAIN_STATE, DOMAIN_WIRE),
    ("gtree/save/saveiommu", IOMMU, IOMMU_STATE, IOMMU_WIRE),
    ("qlist/save/saveqlist", CONTAINER, CONTAINER_STATE, CONTAINER_WIRE),
    ("tmp_struct", TMP, Six(a=2, b=4, d=1, f=8), TMP_WIRE),
]
"""Case, description, state, bytes."""


def with_null() -> Pointers:
    return Pointers([Trivial(), None, Trivial(), Trivial()])


LOADED: list[tuple[str, VMStateDescription, int, Callable[[], Any], str, Any]] = [
    ("simple/primitive", SIMPLE, 1, Simple, SIMPLE_WIRE, SIMPLE_STATE),
    ("simple/array", SIMPLE_ARRAY, 1, SimpleArray, SIMPLE_ARRAY_WIRE, SimpleArray([0x42, 0x43, 0x44])),
    ("versioned/load/v1", VERSIONED, 1, lambda: Six(b=200, e=500, f=600), V1_WIRE, Six(10, 200, 30, 500, 40, 600)),
    ("versioned/load/v2", VERSIONED, 2, Six, V2_WIRE, Six(10, 20, 30, 50, 40, 60)),
    ("field_exists/load/noskip", SKIPPING, 2, Six, V2_WIRE, Six(10, 20, 30, 50, 40, 60)),
    (
        "field_exists/load/skip",
        SKIPPING,
        2,
        lambda: Six(c=300, e=500, skip_c_e=True),
        LOADED_SKIP_WIRE,
        Six(10, 20, 300, 500, 40, 60, skip_c_e=True),
    ),
    (
        "array/ptr/str/no0/load",
        STRUCT_POINTERS,
        1,
        lambda: Pointers([Trivial() for _ in range(4)]),
        NO_NULL_WIRE,
        Pointers([Trivial(i) for i in range(4)]),
    ),
    (
        "array/ptr/str/0/load",
        STRUCT_POINTERS,
        1,
        with_null,
        ONE_NULL_WIRE,
        Pointers([Trivial(0), None, Trivial(2), Trivial(3)]),
    ),
    (
        "array/ptr/prim/0/load",
        NUMBER_POINTERS,
        1,
        lambda: Pointers([3, None, 1, 0]),
        ONE_NULL_WIRE,
        Pointers([0, None, 2, 3]),
    ),
    ("qtailq/load/loadq", QUEUE, 1, Queue, QUEUE_WIRE, QUEUE_STATE),
    ("gtree/load/loaddomain", DOMAIN, 1, Domain, DOMAIN_WIRE, DOMAIN_STATE),
    ("gtree/load/loadiommu", IOMMU, 1, Iommu, IOMMU_WIRE, IOMMU_STATE),
    ("qlist/load/loadqlist", CONTAINER, 1, Container, CONTAINER_WIRE, CONTAINER_STATE),
    ("tmp_struct", TMP, 1, Six, TMP_WIRE, Six(a=2, b=4, d=1, f=8)),
]
"""Case, description, version, fresh state, bytes, state."""


@pytest.mark.parametrize(
    ("description", "state", "text"), [case[1:] for case in SAVED], ids=[case[0] for case in SAVED]
)
def test_saves_the_bytes_that_qemu_saves(
    description: VMStateDescription, state: Any, text: str, wire: Any, save: Any
) -> None:
    assert save(description, state) == wire(text)


@pytest.mark.parametrize(
    ("description", "version_id", "fresh", "text", "state"),
    [case[1:] for case in LOADED],
    ids=[case[0] for case in LOADED],
)
def test_loads_the_bytes_that_qemu_loads(
    description: VMStateDescription,
    version_id: int,
    fresh: Callable[[], Any],
    text: str,
    state: Any,
    wire: Any,
    load: Any,
) -> None:
    assert load(description, wire(text), version_id, fresh) == state


def test_all_23_cases_are_here() -> None:
    assert len({case[0] for case in SAVED} | {case[0] for case in LOADED}) == 23


def test_a_loaded_list_can_be_changed_like_any_other(wire: Any, load: Any) -> None:
    loaded = load(CONTAINER, wire(CONTAINER_WIRE)).list
    loaded.insert(1, ListElement(0x12))
    del loaded[-1]
    assert [element.id for element in loaded] == [0xA, 0x12, 0xB00, 0xC0000]
